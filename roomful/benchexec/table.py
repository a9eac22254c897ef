"""One report of many jobs' results, made by BenchExec's own table-generator."""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from roomful.benchexec.judge import Finding
from roomful.errors import MissingProgram, RoomfulError

#: Columns of the report: what BenchExec always measures.
COLUMNS = ("status", "cputime", "walltime", "memory")
#: The report's files begin with this.
NAME = "report"
#: Seconds that table-generator may take.
TABLE_SECONDS = 3600.0


def find_program() -> str:
    """Return the path of BenchExec's table-generator; raises MissingProgram."""
    # Beside this Python first: it may be in an environment that PATH does not name.
    beside = str(Path(sys.executable).parent)
    program = shutil.which("table-generator", path=beside) or shutil.which("table-generator")
    if program is None:
        raise MissingProgram("table-generator", "pip install benchexec")
    return program


def table_definition(findings: Iterable[Finding], benchmark: str) -> bytes:
    """Return a definition for table-generator: the task sets of each run definition stand one below the other."""
    root = ElementTree.Element("table")
    for column in COLUMNS:
        ElementTree.SubElement(root, "column", title=column)
    unions: dict[str, ElementTree.Element] = {}
    for finding in findings:
        if finding.file is None:
            continue
        title = finding.run_definition or benchmark
        if title not in unions:
            unions[title] = ElementTree.SubElement(root, "union", title=title)
        # table-generator expands patterns and variables in it.
        path = glob.escape(str(finding.file.path.absolute())).replace("$", "[$]")
        ElementTree.SubElement(unions[title], "result", filename=path)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def repeated(findings: Iterable[Finding]) -> list[str]:
    """Return the names of tasks that are in several sets of a run definition: the report shows one run of each."""
    counts = Counter((one.run_definition, task) for one in findings if one.file for task in one.file.tasks)
    return sorted({task[0] for (_, task), count in counts.items() if count > 1})


def table_argv(program: str, definition: Path) -> list[str]:
    """Return the command that makes the report beside its definition."""
    options = ["--no-diff", "--quiet", "--format=html", "--format=csv", f"--name={NAME}"]
    return [program, *options, f"--outputpath={definition.parent.absolute()}", f"--xml={definition.absolute()}"]


def make_table(findings: Sequence[Finding], benchmark: str, folder: Path, program: str) -> tuple[Path, Path]:
    """Make ``report.table.html`` and ``report.table.csv`` in a folder; ``program`` is table-generator.

    Raises RoomfulError with table-generator's last words.
    """
    outputs = (folder / f"{NAME}.table.html", folder / f"{NAME}.table.csv")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for output in outputs:
            # An older one must not pass for this one.
            output.unlink(missing_ok=True)
        definition = folder / f"{NAME}.xml"
        definition.write_bytes(table_definition(findings, benchmark))
    except OSError as error:
        raise RoomfulError("cannot write the report", where=str(folder), why=error.strerror or "") from None
    try:
        done = subprocess.run(
            table_argv(program, definition),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TABLE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RoomfulError("table-generator failed", where=program, why=str(error)) from None
    if done.returncode != 0 or not all(output.is_file() for output in outputs):
        said = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["it wrote no report"]
        raise RoomfulError("table-generator failed", where=str(definition), why=said[0])
    return outputs
