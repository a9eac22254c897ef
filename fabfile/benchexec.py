"""BenchExec's benchmark definitions over many machines (see `roomful.benchexec`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from ._step import settings_of, step

if TYPE_CHECKING:
    from roomful.benchexec.campaign import Leftover
    from roomful.benchexec.follow import JobEnd
    from roomful.benchexec.judge import Finding
    from roomful.benchexec.plan import Plan
    from roomful.benchexec.summary import Summary
    from roomful.benchexec.workers import Worker


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
    from roomful.benchexec.request import words_of
    from roomful.errors import InputError

    if lines and json:
        raise InputError("--lines and --json contradict each other", fix="give one of them")
    if options and not lines:
        raise InputError("--options needs --lines", fix="add --lines")
    words = words_of(options, "--options")
    made = make_plan(read_definition(Path(definition)), split)
    if lines:
        print("\n".join(task_line(job, definition, words) for job in made.jobs))
    elif json:
        print(reports.to_json(document(made)))
    else:
        print(_plan_table(made))
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
    from roomful import report as reports
    from roomful.benchexec import make_plan, read_definition
    from roomful.benchexec.judge import judge
    from roomful.benchexec.table import find_program, make_table
    from roomful.errors import InputError

    settings = settings_of(c)
    folder = Path(results) if results else settings.path(settings.results)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="bring the results with: inv collect")
    made = make_plan(read_definition(Path(definition)), split)
    program = find_program()
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
        _print_findings(found)
    _warn(found, paths)
    if missing:
        raise Exit(_missing_text(missing, len(found)), code=1)


@step(
    help={
        "definition": "BenchExec's benchmark definition, an XML file; what it names is shipped with it",
        "tool": "the tool's archive, unpacked once on each machine; its bin/ goes to the front of PATH",
        "start_script": "run this instead of benchexec, called with definition, task set and name",
        "name": "name of the run and of its folder in results/bench (default: the definition's)",
        "split": "a job for each taskset, for each rundefinition, or for both: each pair of them",
        "resume": "go on with a run whose command was ended; what is finished does not run again",
        "options": "BenchExec's own options, such as: '--timelimit 900 --numOfThreads 1'",
        "runexec_options": "options of runexec and BenchExec: '--read-only-dir / --hidden-dir /home'",
        "mixed_hardware": "accept hosts with different CPUs, although their times do not compare",
        "notify": "tell these URLs when all is done: https://..., mailto:A@B, ntfy://...; or: off",
        "notify_each": "tell them also when a machine has finished a job",
        "mail_to": "e-mail addresses that are told",
    },
)
def run(
    c: Context,
    definition: str,
    hosts: str = "",
    exclude: str = "",
    tool: str = "",
    start_script: str = "",
    name: str = "",
    split: str = "taskset",
    resume: bool = False,
    options: str = "",
    runexec_options: str = "",
    mixed_hardware: bool = False,
    notify: str = "",
    notify_each: bool = False,
    mail_to: str = "",
    json: bool = False,
    accept_new_host_keys: bool = False,
) -> None:
    """Bench: run a benchmark definition on many machines, one job at a time on each, and merge the results.

    Everything is shipped: BenchExec, the definition's files, the tool. A queue and agents of its own work beside
    those of the project, and are gone when it ends. A machine is locked while it measures; one that others have
    locked is asked again later.

    Example:
        inv bench.run all.xml --hosts mine --runexec-options=--no-container
        inv bench.run all.xml --hosts mine --tool cpachecker.zip --name nightly --mail-to me@example.org --notify-each
        inv bench.run all.xml --hosts mine --name nightly --resume
    """
    from roomful.benchexec.request import Request, read_request
    from roomful.benchexec.run import Events, run_benchmark
    from roomful.benchexec.summary import all_message, each_message

    from . import _notifying
    from ._fanout import begin

    order = read_request(
        Request(definition, tool, start_script, name, split, resume, options, runexec_options, mixed_hardware)
    )
    settings, machines = begin(c, hosts, exclude, accept_new_host_keys=accept_new_host_keys)
    channels, place = _notifying.channels(settings, notify, mail_to), _notifying.place(settings)

    def job_ended(end: JobEnd) -> None:
        if notify_each:
            _notifying.tell(each_message(end, order.name, place), channels)

    print(_plan_table(order.plan), file=sys.stderr)
    events = Events(_tell, job_ended, _print_workers, lambda left: _say_left(left, order.name))
    with _going_on(order.name):
        summary = run_benchmark(order, settings, machines, events)
    _print_summary(summary, json)
    _notifying.tell(all_message(summary, place), channels)
    if summary.missing:
        raise Exit(f"inv bench.run: {_missing_text(summary.missing, len(summary.findings))}", code=1)


@step(help={"name": "name of the run: its folder in results/bench"})
def stop(c: Context, name: str) -> None:
    """Bench: end a run that its command has left: its jobs are killed, results that are here stay.

    Example:
        inv bench.stop nightly
    """
    from roomful.benchexec.campaign import Campaign
    from roomful.errors import InputError

    from ._fanout import enter_lab

    campaign = Campaign(name, settings_of(c))
    if not campaign.root.is_dir():
        raise InputError(f"no run {name!r} is under way here", fix="see the folders in .roomful/bench")
    hosts = campaign.hosts()
    enter_lab(hosts)
    left = campaign.end()
    print(f"the run {name} is ended on {len(hosts)} hosts; its results: {campaign.folder}", file=sys.stderr)
    _say_left(left, name)
    if left:
        raise Exit(code=1)


def _tell(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _going_on(name: str) -> Iterator[None]:
    """Let Ctrl-C say that the jobs go on, how to wait for them again, and how to end them."""
    from . import _notifying

    try:
        yield
    except KeyboardInterrupt:
        again = _notifying.call_again(resume=True)
        raise Exit(
            f"what was begun goes on; wait for them again: {again}; end them: inv bench.stop {name}", code=130
        ) from None


def _say_left(left: Sequence[Leftover], name: str) -> None:
    for one in left:
        print(f"{one.host.label}: not cleaned: {one.why}; later: inv bench.stop {name}", file=sys.stderr)


def _print_workers(workers: Sequence[Worker]) -> None:
    """Show which machines there are, and why some get no job now."""
    from roomful.report import size, table

    def cells(worker: Worker) -> list[Any]:
        memory = size(worker.memory_bytes) if worker.memory_bytes else ""
        facts = [worker.cpus or "", memory, worker.cpu_model, worker.python, worker.version]
        return [worker.host.label, worker.state, *facts]

    headers = ("host", "state", "CPUs", "memory", "CPU", "python", "BenchExec")
    lines = [table([cells(worker) for worker in workers], headers)]
    lines += [f"{worker.host.label}: {worker.why}" for worker in workers if worker.why]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _plan_table(made: Plan) -> str:
    from roomful import report as reports

    headers = ["job", "run definitions", "task sets", "runs"]
    rows = [[job.id, ", ".join(job.run_definitions), ", ".join(job.task_sets), job.runs] for job in made.jobs]
    return reports.table(rows, headers)


def _print_summary(summary: Summary, json: bool) -> None:
    from roomful import report as reports

    print(reports.to_json(summary.document()) if json else reports.table(summary.rows(), summary.HEADERS))
    _warn(summary.findings, summary.reports)


def _print_findings(found: Sequence[Finding]) -> None:
    from roomful import report as reports

    headers = ["job", "run_definition", "task_set", "state", "host", "runs", "detail"]
    print(reports.table([[_row(one)[name] for name in headers] for one in found], headers))


def _warn(found: Sequence[Finding], paths: Sequence[Path]) -> None:
    """Say where the reports are, and what makes them doubtful."""
    from roomful.benchexec.judge import runs_in
    from roomful.benchexec.table import repeated

    sys.stdout.flush()
    for path in paths:
        print(path, file=sys.stderr)
    models = sorted({one.file.cpu for one in found if one.file})
    if len(models) > 1:
        print(f"warning: measured on different CPUs, times do not compare: {', '.join(models)}", file=sys.stderr)
    if len(runs := runs_in(found)) > 1:
        print(
            f"warning: results of different runs are mixed, name a folder of one: {', '.join(runs)}", file=sys.stderr
        )
    if again := repeated(found):
        words = f"{len(again)} tasks are in several task sets, and the report shows one run of each"
        print(f"warning: {words}; the first is {again[0]}", file=sys.stderr)


def _missing_text(missing: Sequence[Finding], total: int) -> str:
    jobs = ", ".join(dict.fromkeys(one.job for one in missing))
    return f"{len(missing)} of {total} results are missing, of the jobs {jobs}"


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
