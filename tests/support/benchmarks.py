"""A benchmark whose runs take a moment, and what one machine alone makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.inv import Project

#: Where the tool notes on a host that it ran.
RAN = "/var/tmp/ran"
#: BenchExec's tool "dummy" is the shuf that is first on PATH.
SHUF = """\
#!/bin/sh
for word; do case $word in "Input file: "*) echo "$word" >>{ran};; esac; done
sleep {seconds}
exec /usr/bin/shuf "$@"
"""
DEFINITION = """<?xml version="1.0"?>
<benchmark tool="dummy">
  <rundefinition name="fast"><option name="true"/></rundefinition>
  <rundefinition name="slow"><option name="false"/></rundefinition>
  <tasks name="a*"><include>../c/[12].c</include></tasks>
  <tasks name="b"><includesfile>../sets/b.set</includesfile></tasks>
  <tasks name="z z"><include>../c/5.yml</include><withoutfile>alone</withoutfile></tasks>
</benchmark>
"""


def programs() -> str:
    """The folder of benchexec and table-generator: those of this Python."""
    return str(Path(sys.executable).parent)


def write_benchmark(root: Path, seconds: float = 0.4) -> Path:
    """Write a definition of 2 run definitions x 3 task sets, its files above it, and the tool's archive."""
    for folder in ("bench", "c", "sets", "tool/dummy-1.0/bin"):
        (root / folder).mkdir(parents=True)
    for number in range(1, 6):
        (root / "c" / f"{number}.c").write_text(f"int main() {{ return {number}; }}\n")
    (root / "c" / "5.yml").write_text("format_version: '2.0'\ninput_files: 5.c\n")
    (root / "sets" / "b.set").write_text("# two\n../c/[34].c\n")
    program = root / "tool" / "dummy-1.0" / "bin" / "shuf"
    program.write_text(SHUF.format(ran=RAN, seconds=seconds))
    program.chmod(0o755)
    with tarfile.open(root / "tool.tar.gz", "w:gz") as packed:
        packed.add(root / "tool" / "dummy-1.0", "dummy-1.0")
    path = root / "bench" / "def.xml"
    path.write_text(DEFINITION)
    return path


def rows(table: Path) -> list[tuple[str, ...]]:
    """The task's file and the status columns of a report, row by row."""
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    (heads,) = (row for row in lines if "status" in row)
    columns = [0, *(number for number, name in enumerate(heads) if name == "status")]
    found = [[row[number].strip() for number in columns] for row in lines[lines.index(heads) + 1 :]]
    return [(Path(name).name, *statuses) for name, *statuses in found]


def alone(project: Project, definition: Path) -> list[tuple[str, ...]]:
    """Run the definition with one BenchExec on this machine, and return its rows."""
    # What it says is compared, not how long it takes.
    (project.root / "tool" / "dummy-1.0" / "bin" / "shuf").write_text(SHUF.format(ran=RAN, seconds=0))
    path = f"{project.root}/tool/dummy-1.0/bin:{programs()}:{os.environ['PATH']}"
    argv = ["benchexec", "--no-container", "--results-per-taskset", "--outputpath=alone/", str(definition)]
    subprocess.run(argv, cwd=project.root, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    done = project.inv("bench.report", str(definition), "--results=alone", "--into=single")
    assert done.returncode == 0, done.stderr
    return rows(project.root / "single" / "report.table.csv")
