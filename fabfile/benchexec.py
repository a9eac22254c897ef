"""BenchExec's benchmark definitions over many machines (see `roomful.benchexec`)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from ._step import settings_of, step

if TYPE_CHECKING:
    from roomful.benchexec.judge import Finding


@step(
    help={
        "definition": "BenchExec's benchmark definition, an XML file",
        "split": "a job for each taskset, for each rundefinition, or for both: each pair of them",
        "lines": "print the jobs as a task file, for: inv submit -",
        "options": "BenchExec's own options, for the lines: '--no-container --name nightly'",
    },
)
def plan(
    c: Context,
    definition: str,
    split: str = "taskset",
    lines: bool = False,
    options: str = "",
    json: bool = False,
) -> None:
    """Bench: show the jobs that a benchmark definition is split into, or print them as tasks.

    Example:
        inv bench.plan benchmarks/all.xml
        inv bench.plan benchmarks/all.xml --split both --json
        inv bench.plan benchmarks/all.xml --lines --options=--no-container | inv submit - --wait
    """
    from roomful import report as reports
    from roomful.benchexec import make_plan, read_definition
    from roomful.benchexec.plan import document, task_line
    from roomful.errors import InputError

    if lines and json:
        raise InputError("--lines and --json contradict each other", fix="give one of them")
    if options and not lines:
        raise InputError("--options needs --lines", fix="add --lines")
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise InputError(f"bad --options {options!r}", why=str(error)) from None
    made = make_plan(read_definition(Path(definition)), split)
    if lines:
        print("\n".join(task_line(job, definition, words) for job in made.jobs))
    elif json:
        print(reports.to_json(document(made)))
    else:
        headers = ["job", "run definitions", "task sets", "runs"]
        rows = [[job.id, ", ".join(job.run_definitions), ", ".join(job.task_sets), job.runs] for job in made.jobs]
        print(reports.table(rows, headers))
    sys.stdout.flush()
    print(f"{len(made.jobs)} jobs, {made.runs} runs", file=sys.stderr)


@step(
    help={
        "definition": "BenchExec's benchmark definition, an XML file",
        "split": "as it was split by bench.plan: taskset, rundefinition or both",
        "results": "folder with the result files, in it or below (default: the setting results)",
        "into": "folder for report.table.html and .csv (default: bench/NAME in the setting results)",
    },
)
def report(
    c: Context,
    definition: str,
    split: str = "taskset",
    results: str = "",
    into: str = "",
    json: bool = False,
) -> None:
    """Bench: check that every result of a definition is there and whole, and merge them into one table.

    Example:
        inv bench.report benchmarks/all.xml
        inv bench.report benchmarks/all.xml --results results/lab01 --into tables --json
    """
    import shutil

    from roomful import report as reports
    from roomful.benchexec import make_plan, read_definition
    from roomful.benchexec.judge import judge
    from roomful.benchexec.table import make_table, repeated
    from roomful.errors import InputError, MissingProgram

    settings = settings_of(c)
    folder = Path(results) if results else settings.path(settings.results)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="bring the results with: inv collect")
    made = make_plan(read_definition(Path(definition)), split)
    # Beside this Python first: it may be in an environment that PATH does not name.
    beside = str(Path(sys.executable).parent)
    program = shutil.which("table-generator", path=beside) or shutil.which("table-generator")
    if program is None:
        raise MissingProgram("table-generator", "pip install benchexec")
    found = judge(made, folder)
    missing = [one for one in found if one.file is None]
    paths: tuple[Path, ...] = ()
    if len(missing) < len(found):
        target = Path(into) if into else settings.path(settings.results) / "bench" / made.definition.name
        paths = make_table(found, made.definition.name, target, program)
    if json:
        rows = [_row(one) for one in found]
        print(reports.to_json({"missing": len(missing), "reports": [str(path) for path in paths], "results": rows}))
    else:
        headers = ["job", "run_definition", "task_set", "state", "host", "runs", "detail"]
        print(reports.table([[_row(one)[name] for name in headers] for one in found], headers))
    sys.stdout.flush()
    for path in paths:
        print(path, file=sys.stderr)
    models = sorted({one.file.cpu for one in found if one.file})
    if len(models) > 1:
        print(f"warning: measured on different CPUs, times do not compare: {', '.join(models)}", file=sys.stderr)
    if again := repeated(found):
        words = f"{len(again)} tasks are in several task sets, and the report shows one run of each"
        print(f"warning: {words}; the first is {again[0]}", file=sys.stderr)
    if missing:
        jobs = ", ".join(dict.fromkeys(one.job for one in missing))
        raise Exit(f"{len(missing)} of {len(found)} results are missing, of the jobs {jobs}", code=1)


def _row(finding: Finding) -> dict[str, Any]:
    """Return what is told of one result."""
    file = finding.file
    return {
        "job": finding.job,
        "run_definition": finding.run_definition,
        "task_set": finding.task_set,
        "state": "ok" if file else "missing",
        "host": file.host if file else "",
        "runs": len(file.statuses) if file else 0,
        "detail": ", ".join(f"{count} {status}" for status, count in sorted(file.counts.items()))
        if file
        else finding.why,
        "file": str(file.path) if file else None,
        "others": [str(path) for path in finding.others],
    }
