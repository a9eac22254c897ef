"""The tasks about tasks: submit them, look at them, change what becomes of them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from ._fanout import enter_lab, print_table
from ._queue import SELECTION_HELP, chosen, open_queue, print_json
from ._step import settings_of, step

if TYPE_CHECKING:
    from rich.text import Text

    from roomful.queue import Queue

#: Rows of a table of tasks, unless --limit says otherwise.
LIMIT = 1000
#: Seconds between two looks of status --watch.
WATCH_SECONDS = 2.0


@step(
    extra="file",
    help={
        "file": "the task file, or - for standard input: a command a line, DistComp lines, or JSON lines",
        "format": "say what the lines are, instead of looking at the first: lines, distcomp or jsonl",
        "each_line": "every line is a plain command, whatever it looks like",
        "wait": "wait until all tasks have ended; exit code 1 if any failed",
        "results": "file with one result path a line: the i-th task's stdout goes to the i-th path",
        "results_are_files": "a task prints the path of a file, and that file goes to the result path",
        "allow_duplicates": "add tasks also if the same are queued or done already",
        "allow_waiting": "accept tasks that need more than any client has",
        "priority": "for tasks that say none: higher runs first (default 0)",
        "memory": "for tasks that say none: memory each needs, such as 4GiB",
        "cpus": "for tasks that say none: CPUs each needs, such as 2 or 0.5 (default 1)",
        "timeout": "for tasks that say none: end each after this time, such as 90s or 5m",
        "retries": "for tasks that say none: how often to try again after a failure",
        "notify": "with --wait: tell these URLs when all have ended: https://..., mailto:A@B, ntfy://...; or: off",
        "mail_to": "with --wait: e-mail addresses that are told when all have ended",
    },
)
def submit(
    c: Context,
    file: str = "",
    format: str = "",
    each_line: bool = False,
    wait: bool = False,
    results: str = "",
    results_are_files: bool = False,
    allow_duplicates: bool = False,
    allow_waiting: bool = False,
    priority: str = "",
    memory: str = "",
    cpus: str = "",
    timeout: str = "",
    retries: str = "",
    notify: str = "",
    mail_to: str = "",
    json: bool = False,
) -> None:
    """Tasks: add the tasks of a file to the queue, and wait for them if told to.

    Example:
        inv submit tasks.txt
        inv submit tasks.txt --wait --memory=2GiB --timeout=1h
        seq 100 | sed 's/^/.\\/simulate /' | inv submit - --wait
        inv submit tasks.txt --results result_paths.txt --wait
        inv submit tasks.txt --wait --mail-to me@example.org
    """
    from roomful import submission
    from roomful.errors import InputError, TaskFileError

    from . import _notifying, _waiting

    if not file:
        raise InputError("no task file given", fix="give a file, or - for standard input: inv submit tasks.txt")
    if each_line and format not in ("", "lines"):
        raise InputError("--each-line and --format contradict each other", fix="give one of them")
    if (notify or mail_to) and not wait:
        raise InputError("--notify and --mail-to need --wait", fix="add --wait")
    settings = settings_of(c)
    channels = _notifying.channels(settings, notify, mail_to) if wait else []
    options = submission.SubmitOptions(
        format="lines" if each_line else format,
        defaults=submission.task_defaults(
            priority=priority, memory=memory, cpus=cpus, timeout=timeout, retries=retries
        ),
        allow_duplicates=allow_duplicates,
        allow_waiting=allow_waiting,
        results=Path(results) if results else None,
        results_are_files=results_are_files,
    )
    if file != "-" and not os.path.exists(file):
        # Before the server is asked: who has none yet need not start it to learn this.
        raise TaskFileError("cannot read the task file", where=file, why=os.strerror(errno.ENOENT))
    with open_queue(settings) as queue:
        source = sys.stdin.buffer if file == "-" else file
        sent = submission.submit(queue, source, settings, options, with_ids=wait)
        # The whole call: other settings make other tasks, which would be added beside these.
        repeatable = wait and not allow_duplicates and Path(file).is_file()
        again = _notifying.call_again() if repeatable else ""
        with _waiting.going_on(again):
            for warning in sent.warnings:
                print(f"inv submit: {warning}", file=sys.stderr)
            if not json:
                print(sent.sentence, flush=True)
            waited = _waiting.wait(queue, sent, settings) if wait else None
    if json:
        print_json({**sent.document(), **(waited.document() if waited else {})})
    elif waited:
        print(waited.sentence, flush=True)
    if waited:
        if channels:
            _notifying.tell(waited.message(sent.name, _notifying.place(settings)), channels)
        _waiting.finish(waited)


@step(help={"watch": "look again every two seconds, in place, until Ctrl-C"})
def status(c: Context, watch: bool = False, json: bool = False) -> None:
    """Tasks: show how many tasks are in which state, the rate, the time left, and the clients.

    Example:
        inv status
        inv status --watch
    """
    from roomful import monitor
    from roomful.errors import InputError

    if watch and (json or not sys.stdout.isatty()):
        raise InputError("--watch draws on a terminal", fix="without one, call inv status again and again")
    with open_queue(settings_of(c)) as queue:
        if watch:
            _watch(queue)
        elif json:
            print_json(monitor.look(queue).document())
        else:
            print(_status_text(queue))


def _status_text(queue: Queue) -> str:
    from roomful import monitor

    now = monitor.look(queue)
    lines = monitor.summary_lines(now)
    if now.clients:
        lines += ["", monitor.client_table(now)]
    else:
        lines.append("no client has registered yet; start them with: inv start-clients --hosts NAME")
    return "\n".join(lines)


def _drawn(queue: Queue) -> Text:
    from rich.text import Text

    # A line too long for the terminal is cut: a wrapped table cannot be read.
    return Text(_status_text(queue), no_wrap=True, overflow="crop")


def _watch(queue: Queue) -> None:
    import time

    from rich.live import Live

    with Live(_drawn(queue), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_drawn(queue), refresh=True)


@step(
    extra="selection",
    help={
        "selection": SELECTION_HELP,
        "state": "only those that are todo, running, done, failed or cancelled",
        "match": "only those whose command, name or tags match this regular expression",
        "exclude_match": "leave out those whose command, name or tags match this regular expression",
        "host": "only those that run or ran on this host",
        "limit": f"show at most so many (default {LIMIT}; 0: all)",
    },
)
def tasks(
    c: Context,
    selection: str = "",
    state: str = "",
    match: str = "",
    exclude_match: str = "",
    host: str = "",
    limit: int = LIMIT,
    json: bool = False,
) -> None:
    """Tasks: list tasks and what became of them.

    Example:
        inv tasks --state failed
        inv tasks 1-20 --match 'simulate .*seed=7'
    """
    from itertools import islice
    from typing import get_args

    from roomful import monitor
    from roomful.errors import InputError
    from roomful.records import State

    states = get_args(State)
    if state and state not in states:
        raise InputError(f"unknown state {state!r}", where="--state", fix=f"use {', '.join(states)}")
    if limit < 0:
        raise InputError(f"bad --limit {limit}", fix="give a number; 0 means all")
    with open_queue(settings_of(c)) as queue:
        ids = chosen(queue, selection) if selection else None
        wanted: Any = state or None
        found = queue.tasks(wanted, match=match or None, exclude=exclude_match or None, host=host or None, ids=ids)
        records = list(islice(found, limit or None))
        more = limit > 0 and next(found, None) is not None
    if json:
        print_json({"tasks": [monitor.task_document(record) for record in records], "more": more})
        return
    print_table([monitor.task_row(record) for record in records], monitor.TASK_HEADERS)
    if more:
        print(f"there are more than {limit}; show all with --limit=0", file=sys.stderr)


@step(
    extra="selection",
    help={"selection": SELECTION_HELP, "stderr": "write the tasks' stderr to stdout, and nothing else"},
)
def logs(c: Context, selection: str = "", stderr: bool = False) -> None:
    """Tasks: write what tasks wrote, byte for byte: their stdout to stdout, their stderr to stderr.

    Example:
        inv logs 17
        inv logs last --stderr
        inv logs 1-200 > all.txt
    """
    from roomful import logs as library

    settings = settings_of(c)
    sys.stdout.flush()
    with open_queue(settings) as queue:
        ids = chosen(queue, selection)
        records = [library.find(queue, next(iter(ids)))] if len(ids) == 1 else queue.tasks(ids=ids)
        skipped = 0
        for record in records:
            if not library.has_output(record):
                skipped += 1
                continue
            out, err = sys.stdout.buffer, sys.stderr.buffer
            if not stderr:
                library.copy(queue, record, "stdout", out.write, settings, enter_lab)
            library.copy(queue, record, "stderr", (out if stderr else err).write, settings, enter_lab)
            out.flush()
            err.flush()
            # For people only: a pipe gets the tasks' bytes and nothing else.
            if sys.stderr.isatty() and (how := library.ending(record)):
                print(f"inv logs: {how}", file=sys.stderr)
    if skipped:
        raise Exit(f"inv logs: {skipped} of the {len(ids)} tasks have not ended yet", code=1)
