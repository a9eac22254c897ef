"""Plans of benchmark definitions against BenchExec itself: each job makes its part, and together they make all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from roomful.benchexec import Job, make_plan, read_definition
from tests.support.inv import CHECKOUT
from tests.support.lab import need

pytestmark = [pytest.mark.integration, pytest.mark.root]

#: Names that are patterns, one of which would match another.
DEFINITION = """<?xml version="1.0"?>
<benchmark tool="dummy">
  <rundefinition name="f*st"><option name="true"/></rundefinition>
  <rundefinition name="fast"><option name="false"/></rundefinition>
  <tasks name="[ab]"><include>c/[12].c</include></tasks>
  <tasks name="a"><include>c/3.c</include></tasks>
  <tasks name="-x y"><withoutfile>alone</withoutfile></tasks>
</benchmark>
"""


def programs() -> str:
    """The folder of benchexec and table-generator: those of this Python."""
    return str(Path(sys.executable).parent)


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        need("BenchExec needs cgroups that this account may use")
    if not shutil.which("benchexec", path=programs()):
        need("not installed: benchexec (requirements.txt)")
    (tmp_path / "c").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "c" / f"{number}.c").touch()
    path = tmp_path / "def.xml"
    path.write_text(DEFINITION)
    return path


def results_of(job: Job, definition: Path, folder: Path) -> list[str]:
    """Run a job and return the middle parts of the names of its result files."""
    options = ["--no-container", f"--outputpath={folder}/"]
    argv = job.arguments(definition.name, options)
    done = subprocess.run(
        argv,
        cwd=definition.parent,
        env={**os.environ, "PATH": f"{programs()}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [path.name.partition(".results.")[2] for path in folder.glob("*.xml.bz2")]
    return sorted(name.removesuffix(".xml.bz2") for name in names)


@pytest.mark.parametrize("split", ["taskset", "rundefinition", "both"])
def test_each_job_writes_exactly_the_results_that_it_is_planned_to(
    definition: Path, tmp_path: Path, split: str
) -> None:
    plan = make_plan(read_definition(definition), split)
    found = [results_of(job, definition, tmp_path / job.id) for job in plan.jobs]
    assert found == [sorted(job.results) for job in plan.jobs]
    assert sorted(name for names in found for name in names) == sorted(
        f"{run}.{tasks}" for run in ("f*st", "fast") for tasks in ("[ab]", "a", "-x y")
    )


def inv(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n")
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_plan_is_shown_and_printed_as_tasks(definition: Path, tmp_path: Path) -> None:
    shown = inv(tmp_path, "bench.plan", "def.xml")
    assert (shown.returncode, shown.stderr) == (0, "3 jobs, 8 runs\n")
    assert shown.stdout.splitlines()[2].split() == ["_ab_", "f*st,", "fast", "[ab]", "4"]
    lines = inv(tmp_path, "bench.plan", "def.xml", "--lines", "--options=--no-container -n 'my name'")
    assert len(lines.stdout.splitlines()) == 3
    assert lines.stdout.count("--no-container -n 'my name' --results-per-taskset") == 3


def test_many_jobs_give_the_table_of_one_run(definition: Path, tmp_path: Path) -> None:
    """The status column is that of one BenchExec alone; what is missing is named, and the exit code says so."""
    plan = make_plan(read_definition(definition), "both")
    for number, job in enumerate(plan.jobs):
        results_of(job, definition, tmp_path / "results" / f"lab0{number}")
    done = inv(tmp_path, "bench.report", "def.xml", "--split=both")
    assert done.returncode == 0, done.stdout + done.stderr
    whole = make_plan(read_definition(definition), "rundefinition")
    for job in whole.jobs:
        # Not two in one folder: BenchExec gives up where two begin in the same second.
        results_of(job, definition, tmp_path / "alone" / job.id)
    alone = inv(tmp_path, "bench.report", "def.xml", "--results=alone", "--into=single")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    table = statuses(tmp_path / "results" / "bench" / "def" / "report.table.csv")
    assert table == statuses(tmp_path / "single" / "report.table.csv")
    assert table == [("true", "false")] * 4
    assert (tmp_path / "single" / "report.table.html").stat().st_size > 1000

    (lost,) = (tmp_path / "results").glob("lab03/*.xml.bz2")
    lost.write_bytes(lost.read_bytes()[:-20])
    done = inv(tmp_path, "bench.report", "def.xml", "--split=both", "--json")
    assert done.returncode == 1
    assert "1 of 6 results are missing, of the jobs " in done.stderr
    document = json.loads(done.stdout)
    (missing,) = [one for one in document["results"] if one["state"] == "missing"]
    assert missing["detail"].startswith("is cut off: ")
    assert missing["others"] == [str(lost)]

    assert "different runs" not in done.stderr
    (other,) = (tmp_path / "results").glob("lab00/*.xml.bz2")
    other.rename(other.with_name(other.name.replace("def.", "def.other.", 1)))
    done = inv(tmp_path, "bench.report", "def.xml", "--split=both")
    assert "warning: results of different runs are mixed, name a folder of one: def, def.other\n" in done.stderr


def statuses(table: Path) -> list[tuple[str, ...]]:
    """The status columns of a report, row by row."""
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    (heads,) = (row for row in rows if "status" in row)
    columns = [number for number, name in enumerate(heads) if name == "status"]
    return [tuple(row[number] for number in columns) for row in rows[rows.index(heads) + 1 :]]


def test_a_report_of_nothing_is_no_report(definition: Path, tmp_path: Path) -> None:
    done = inv(tmp_path, "bench.report", "def.xml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "results: no such folder; bring the results with: inv collect" in done.stderr
    (tmp_path / "results").mkdir()
    done = inv(tmp_path, "bench.report", "def.xml")
    assert done.returncode == 1
    assert "6 of 6 results are missing" in done.stderr
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch.xml"], "inv bench.plan: nosuch.xml: cannot read the definition: No such file"),
        (["def.xml", "--split=x"], "bad --split 'x'"),
        (["def.xml", "--options=-n x"], "--options needs --lines"),
        (["def.xml", "--lines", "--options=-n 'x"], "bad --options"),
        (["def.xml", "--lines", "--json"], "contradict each other"),
    ],
)
def test_bad_input_is_one_line_and_code_2(definition: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = inv(tmp_path, "bench.plan", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert message in done.stderr
