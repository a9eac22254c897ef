"""What a worker gets: the benchmark's files, the tool, a start script, BenchExec itself, and our own two programs.

::

    files/      the definition and what it names, at the same places to each other
    tool.d/     the tool's archive; unpacked once per worker as tool/
    script.d/   the start script
    bin/, lib/  BenchExec with PyYAML, copied from the controller's own installation: pure Python, runs on any >= 3.10
    results/    not shipped: what jobs leave
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roomful.benchexec.tree import Tree
from roomful.errors import InputError, MissingProgram, RoomfulError
from roomful.remote import bench_job, bench_prepare, bench_result

FILES, ARCHIVE, SCRIPT = "files", "tool.d", "script.d"
#: Program -> the module of BenchExec whose ``main`` it is.
PROGRAMS = {"benchexec": "benchexec.benchexec", "runexec": "benchexec.runexecutor"}
_LAUNCHER = """\
#!/usr/bin/env python3
import os
import sys

# Not PYTHONPATH: the tools that are measured would see it.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from {module} import main

{extra}sys.exit(main())
"""
#: A start script's calls of benchexec leave what is expected, where it is expected.
_IN_A_SCRIPT = """\
if os.environ.get("ROOMFUL_IN_SCRIPT"):
    sys.argv[1:1] = ["--results-per-taskset", "--outputpath", os.environ["ROOMFUL_OUTPUT"] + "/"]
"""


@dataclass(frozen=True)
class Load:
    """What is to be shipped; ``tool`` and ``script`` are files, or None."""

    tree: Tree
    tool: Path | None = None
    script: Path | None = None

    @property
    def definition(self) -> str:
        """The definition's path in the workdir."""
        return f"{FILES}/{self.tree.definition_path}"

    @property
    def archive_path(self) -> str:
        """The tool archive's path in the workdir; empty: none."""
        return f"{ARCHIVE}/{self.tool.name}" if self.tool else ""

    @property
    def script_path(self) -> str:
        """The start script's path in the workdir; empty: none."""
        return f"{SCRIPT}/{self.script.name}" if self.script else ""

    def digest(self) -> str:
        """Return what changes with the definition, the tool or the script: results of different ones do not mix."""
        digest = hashlib.sha256()
        for path in (self.tree.definition, self.tool, self.script):
            if path is not None:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            digest.update(b".")
        return digest.hexdigest()


def check_file(path: str, flag: str) -> Path | None:
    """Return a flag's file, None for an empty flag; raises InputError for one that is not there."""
    if not path:
        return None
    found = Path(path).expanduser()
    if not found.is_file() or not os.access(found, os.R_OK):
        raise InputError("no such file", where=f"{flag} {path}", fix="name a file that can be read")
    return found


def make_stage(load: Load, folder: Path) -> None:
    """Fill a folder, which is made anew, with all that is to be shipped.

    Raises MissingProgram where BenchExec is not installed here.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        for file in load.tree.files:
            _put(file, folder / FILES / file.relative_to(load.tree.root))
        for source, name in ((load.tool, ARCHIVE), (load.script, SCRIPT)):
            if source is not None:
                _put(source, folder / name / source.name)
        if load.script is not None:
            (folder / load.script_path).chmod(0o755)
        for name, data in _library():
            path = folder / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (folder / "bin").mkdir()
        for program, module in PROGRAMS.items():
            path = folder / "bin" / program
            path.write_text(_LAUNCHER.format(module=module, extra=_IN_A_SCRIPT if program == "benchexec" else ""))
            path.chmod(0o755)
    except OSError as error:
        where = str(error.filename or folder)
        raise RoomfulError("cannot gather what is shipped", where=where, why=error.strerror or "") from error


def start_line(module: str, argument: str) -> str:
    """Return the shell command that runs one of our programs in the workdir of a worker."""
    # No site packages: what is installed there is not what was shipped.
    code = f"import sys; sys.path.insert(0, 'lib'); from roomful.remote.{module} import main; sys.exit(main())"
    return shlex.join(["python3", "-S", "-c", code, argument])


def _put(source: Path, target: Path) -> None:
    """Bring a file, or a folder with all in it, to its place; links become what they lead to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif not target.exists():
        shutil.copy2(source, target)


def _library() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the workers' Python path: path in it, content."""
    for name in ("benchexec", "PyYAML"):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise MissingProgram(name, "pip install benchexec") from None
        for path in distribution.files or ():
            # PyYAML goes without its C part, which would fit one version of Python only.
            fits = path.suffix not in (".pyc", ".so") and path.parts[0] in ("benchexec", "yaml")
            if fits and "tablegenerator" not in path.parts and not path.name.startswith("test_"):
                yield str(path), Path(str(path.locate())).read_bytes()
    for module in (bench_job, bench_prepare, bench_result):
        yield f"{module.__name__.replace('.', '/')}.py", inspect.getsource(module).encode()
    for package in ("roomful", "roomful/remote"):
        yield f"{package}/__init__.py", b""
