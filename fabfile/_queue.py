"""What the tasks about the queue have in common."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from invoke import Exit

from roomful.errors import InputError

if TYPE_CHECKING:
    from roomful.queue import Queue
    from roomful.settings import Settings
    from roomful.task_selection import TaskIds

SELECTION_HELP = "which tasks: 5, or 1,3-8, or last, or all"


@contextlib.contextmanager
def open_queue(settings: Settings) -> Iterator[Queue]:
    """Connect to the project's queue for the time of a ``with`` block."""
    from roomful import server

    with server.open_queue(settings) as queue:
        yield queue


def chosen(queue: Queue, selection: str) -> TaskIds:
    """Return the ids that the user has chosen; raises InputError."""
    from roomful.task_selection import GRAMMAR, parse_selection

    if not selection:
        raise InputError("no tasks given", fix=GRAMMAR)
    return parse_selection(selection).resolve(queue.last_id())


def one_of(name: str, given: dict[str, bool]) -> None:
    """Refuse a call that names its tasks in no way or in several."""
    if sum(given.values()) != 1:
        what = "too much was chosen" if any(given.values()) else "no tasks chosen"
        raise InputError(what, fix=f"give either {' or '.join(given)}, as in: inv {name} 1,3-8")


def refuse_strangers(queue: Queue, labels: Iterable[str]) -> None:
    """Refuse hosts that have never been clients: a typing error would go unnoticed."""
    known = {client.host for client in queue.clients()}
    for label in labels:
        if label not in known:
            why = f"the clients are {', '.join(sorted(known))}" if known else "no client has registered yet"
            raise InputError(f"no client {label!r}", why=why, fix="see: inv status")


def confirm(question: str) -> None:
    """Ask on the terminal; ends with exit code 1 unless the answer is yes."""
    if not sys.stdin.isatty():
        raise InputError("there is no terminal to ask on", fix="give --yes if you mean it")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Exit("nothing was changed", code=1)


def tasks_text(count: int) -> str:
    """Write a number of tasks."""
    return f"{count} task" if count == 1 else f"{count} tasks"


def say(document: dict[str, Any], text: str, json: bool) -> None:
    """Print what was done, as JSON or as a sentence."""
    if json:
        print_json(document)
    else:
        print(text)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    from roomful import report

    print(report.to_json(document))
