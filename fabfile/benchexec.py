"""BenchExec's benchmark definitions over many machines (see `roomful.benchexec`)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from invoke import Context

from ._step import step


@step(
    help={
        "definition": "BenchExec's benchmark definition, an XML file",
        "split": "a job for each taskset, for each rundefinition, or for both: each pair of them",
        "lines": "print the jobs as a task file, for: inv submit -",
        "options": "BenchExec's own options, for the lines: '--no-container --outputpath out/'",
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
    from roomful import report
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
        print(report.to_json(document(made)))
    else:
        headers = ["job", "run definitions", "task sets", "runs"]
        rows = [[job.id, ", ".join(job.run_definitions), ", ".join(job.task_sets), job.runs] for job in made.jobs]
        print(report.table(rows, headers))
    sys.stdout.flush()
    print(f"{len(made.jobs)} jobs, {made.runs} runs", file=sys.stderr)
