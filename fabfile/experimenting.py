"""Run distributed experiments (see `roomful.experiments`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from ._step import current_call, settings_of, step

if TYPE_CHECKING:
    from pathlib import Path

    from roomful.experiments.journal import Journal
    from roomful.experiments.loader import Loaded
    from roomful.experiments.plan import Plan
    from roomful.experiments.registry import Experiment
    from roomful.experiments.results import Result
    from roomful.settings import Settings

HELP = {
    "paths": "experiment files, or folders that are searched for them; they run in this order",
    "resume": "skip what .roomful/experiments.jsonl (or an old .distexprunner) holds as finished",
    "filter": "run only experiments whose name, or file:name, matches this pattern: 'grid__a=4*'",
    "compatibility_mode": "load version 1 files of distexprunner: classes derived from experiment.Base",
    "seed": "draw the order of repeated experiments from this number, as an earlier run did",
    "yes": "do not ask, however many experiments there are",
}


@step(
    extra="paths",
    help={
        **HELP,
        "dry_run": "show what would run, and run nothing",
        "progress": "show a progress bar below the log",
        "log": "append the whole log to this file",
        "slack_webhook": "post how it went to this URL, as Slack's webhooks take it",
        "keep_going": "go on after an experiment, or a file, that fails",
        "jobs": "run so many experiments at a time, where their servers are disjoint",
        "verbose": "log every command",
        "user": "account on the servers, where neither they nor the host lists name one",
        "ssh_config": "OpenSSH client configuration to use",
    },
)
def run(
    c: Context,
    paths: list[str],
    resume: bool = False,
    filter: str = "",
    dry_run: bool = False,
    progress: bool = False,
    log: str = "",
    slack_webhook: str = "",
    compatibility_mode: bool = False,
    keep_going: bool = False,
    jobs: int = 1,
    seed: str = "",
    user: str = "",
    ssh_config: str = "",
    accept_new_host_keys: bool = False,
    verbose: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Experiments: run experiment files, in order, on the servers that they name.

    Example:
        inv experiments.run resources/experiments
        inv experiments.run compile.py scaleout.py --resume --progress --log run.log
    """
    import platform

    from roomful.errors import InputError
    from roomful.experiments import loader, provenance, summary
    from roomful.experiments.logs import to_stderr
    from roomful.experiments.plan import make_plan
    from roomful.experiments.results import Results
    from roomful.experiments.runner import Runner, RunOptions
    from roomful.notify import SlackWebhook, notify

    if jobs < 1:
        raise InputError(f"bad --jobs {jobs}", fix="give a number from 1")
    webhook = [SlackWebhook(slack_webhook)] if slack_webhook else []
    settings = _settings(c, user, ssh_config, accept_new_host_keys)
    # What experiments print is no data of ours.
    stdout = sys.stdout
    with to_stderr(log, verbose), loader.environment(compatibility_mode), contextlib.redirect_stdout(sys.stderr):
        loaded = _load(settings, paths, compatibility_mode, keep_going)
        _ask_about_many(loaded, yes)
        journal = _journal(settings)
        plan = make_plan(loaded.registrations, filter, _seed(seed, journal.seed if resume else None))
        if not plan.experiments and not loaded.broken:
            raise InputError(
                "no experiments", why="no @reg_exp in these files" if not filter else f"none is {filter!r}"
            )
        if dry_run:
            with contextlib.redirect_stdout(stdout):
                _show(plan, json, journal if resume else None)
            if loaded.broken:
                raise Exit(code=1)
            return
        _enter_lab(plan, settings)
        results = Results(settings.path(settings.results) / "experiments", provenance.begin(plan, _command_line()))
        runner = Runner(settings, RunOptions(resume, keep_going, jobs), journal, results)
        with _progress(plan, progress) as report:
            ended = runner.run(plan, report)
    _report(ended, loaded, results.folder, json)
    if webhook:
        notify(summary.message(ended, loaded, results.folder, platform.node()), webhook, _warn)
    if runner.interrupted:
        raise Exit(code=130)
    if not summary.succeeded(ended, loaded):
        raise Exit(code=1)


@step(extra="paths", name="list", help=HELP)
def list_(
    c: Context,
    paths: list[str],
    resume: bool = False,
    filter: str = "",
    compatibility_mode: bool = False,
    seed: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Experiments: show what would run, and how many.

    Example:
        inv experiments.list resources/experiments
        inv experiments.list resources/experiments --filter 'grid*' --json
    """
    from roomful.experiments import loader
    from roomful.experiments.logs import to_stderr
    from roomful.experiments.plan import make_plan

    settings = settings_of(c)
    with to_stderr(), loader.environment(compatibility_mode), contextlib.redirect_stdout(sys.stderr):
        loaded = _load(settings, paths, compatibility_mode, keep_going=False)
        _ask_about_many(loaded, yes)
        journal = _journal(settings)
        plan = make_plan(loaded.registrations, filter, _seed(seed, journal.seed if resume else None))
    _show(plan, json, journal if resume else None)


def _settings(c: Context, user: str, ssh_config: str, accept_new_host_keys: bool) -> Settings:
    from pathlib import Path

    from roomful.errors import InputError

    changes: dict[str, Any] = {"user": user, "accept_new_host_keys": accept_new_host_keys}
    if ssh_config:
        path = Path(ssh_config).expanduser().absolute()
        if not path.is_file():
            raise InputError("no such file", where=ssh_config, fix="give an OpenSSH client configuration")
        changes["ssh_config"] = str(path)
    return settings_of(c).replace(**{key: value for key, value in changes.items() if value})


def _load(settings: Settings, paths: list[str], compatibility_mode: bool, keep_going: bool) -> Loaded:
    from roomful.experiments.loader import Loader, find_files

    return Loader(settings, compatibility_mode).load(find_files(paths), keep_going)


def _journal(settings: Settings) -> Journal:
    from pathlib import Path

    from roomful.experiments.journal import OLD_NAME, Journal
    from roomful.state import ProjectState

    return Journal(ProjectState(settings).directory / "experiments.jsonl", Path.cwd() / OLD_NAME)


def _seed(given: str, earlier: int | None) -> int | None:
    from roomful.errors import InputError

    if given and not given.isdigit():
        raise InputError(f"bad --seed {given!r}", fix="give a whole number")
    return int(given) if given else earlier


def _ask_about_many(loaded: Loaded, yes: bool) -> None:
    """Ask before a product that was hardly meant. Raises InputError for a no, and where nobody can be asked."""
    from roomful.errors import InputError
    from roomful.experiments.plan import MANY, count

    total = count(loaded.registrations)
    if total <= MANY or yes:
        return
    what = f"{total:,} experiments" if total != MANY + 1 else f"more than {MANY:,} experiments"
    if sys.stdin is not None and sys.stdin.isatty():
        print(f"{what}: go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise InputError(what, fix="make the grid smaller, or give --yes")


def _enter_lab(plan: Plan, settings: Settings) -> None:
    from ._fanout import enter_lab

    enter_lab(server.entry(settings) for experiment in plan.experiments for server in experiment.servers)


def _command_line() -> str:
    # Whoever has a webhook's URL may post to it.
    secret = {"slack_webhook": "***"} if "slack_webhook" in current_call().given else {}
    return current_call().line(**secret)


def _show(plan: Plan, json: bool, journal: Journal | None) -> None:
    """Print what would run (stdout) and the count (stderr)."""
    from roomful import report
    from roomful.experiments import summary

    rows = summary.plan_rows(plan, [journal is not None and journal.skips(one) for one in plan.experiments])
    if json:
        print(report.to_json({"count": len(rows), "seed": plan.seed, "experiments": rows}))
    else:
        headers = ["file", "name", "servers", *(["state"] if journal is not None else [])]
        print(report.table([[row[name] for name in headers] for row in rows], headers))
    sys.stdout.flush()
    print(summary.count_of(len(rows)), file=sys.stderr)


@contextlib.contextmanager
def _progress(plan: Plan, wanted: bool) -> Iterator[Any]:
    """Say in the log what begins and ends, and move the bar if one is wanted."""
    import threading

    from roomful import progress
    from roomful.experiments.logs import RUN, logger
    from roomful.report import duration, printable

    total = len(plan.experiments)
    lock = threading.Lock()
    done = 0

    with progress.bar("experiments", total) if wanted else contextlib.nullcontext() as move:

        def report(experiment: Experiment, result: Result | None) -> None:
            nonlocal done
            with lock:
                done += result is not None
                name = printable(experiment.name)
                if result is None:
                    logger.log(RUN, "%s begins (%d of %d)", name, done + 1, total)
                else:
                    seconds = f" in {duration(result.seconds)}" if result.seconds else ""
                    logger.log(RUN, "%s: %s%s", name, result.status, seconds)
                if move:
                    move(done, total, name if result is None else "")

        yield report


def _report(results: list[Result], loaded: Loaded, folder: Path, json: bool) -> None:
    """Print how each experiment ended (stdout) and the counts (stderr)."""
    from roomful import report
    from roomful.experiments import summary

    if json:
        print(report.to_json(summary.document(results, loaded, folder)))
    else:
        rows = [[row[name] for name in summary.COLUMNS] for row in summary.rows(results)]
        print(report.table(rows, summary.COLUMNS))
    sys.stdout.flush()
    for line in summary.recap(results, loaded, folder):
        print(line, file=sys.stderr)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
