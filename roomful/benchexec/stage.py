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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from roomful.agent import host_lock
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

    def digests(self) -> dict[str, str]:
        """Return what changes with the places and the content of all that is shipped: results must not mix.

        Raises RoomfulError for a file that cannot be read.
        """
        tasks = [file for file in self.tree.files if file != self.tree.definition]
        try:
            return {
                "definition's content": _digest([self.tree.definition], self.tree.root),
                "task files": _digest(_plain_files(tasks), self.tree.root),
                "tool": _digest([self.tool], self.tool.parent) if self.tool else "",
                "start script": _digest([self.script], self.script.parent) if self.script else "",
            }
        except OSError as error:
            raise RoomfulError("cannot read", where=str(error.filename or ""), why=error.strerror or "") from error


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


def _plain_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files, and of folders all in them, as they are shipped: links are what they lead to."""
    for path in paths:
        if path.is_dir():
            yield from _plain_files(path.iterdir())
        else:
            yield path


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    # A file may be named by itself and by a folder above it.
    for path in sorted(set(files)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        # No path holds a zero byte: where it ends is certain.
        digest.update(os.fsencode(path.relative_to(root)) + b"\0" + content)
    return digest.hexdigest()


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
    for module in (bench_job, bench_prepare, bench_result, host_lock):
        yield f"{module.__name__.replace('.', '/')}.py", inspect.getsource(module).encode()
    for package in ("roomful", "roomful/remote", "roomful/agent"):
        yield f"{package}/__init__.py", b""
