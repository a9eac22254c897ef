"""Progress bars on standard error, only where it is a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

#: Called with what is done so far, the total, and a short note.
Report = Callable[[float, float, str], None]

#: A bar appears after this time: what is over at once, or refused at once, needs none.
DELAY_SECONDS = 0.25


@contextlib.contextmanager
def bar(description: str, total: float, unit: str = "") -> Iterator[Report]:
    """Show a bar with a rate and the time left; yields the function that moves it.

    On anything but a terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    # rich costs 60 ms to import: only where something is drawn.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
    ]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)]
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(description, total=total, note="")

    def report(done: float, total: float, note: str) -> None:
        progress.update(task, completed=done, total=total, note=note)

    @contextlib.contextmanager
    def shown() -> Iterator[None]:
        starting = threading.Timer(DELAY_SECONDS, progress.start)
        starting.daemon = True
        starting.start()
        try:
            yield
        finally:
            starting.cancel()
            starting.join()
            progress.stop()

    # What is on the screen at any moment, so that a question can have it to itself.
    with contextlib.ExitStack() as screen:
        screen.enter_context(shown())

        @contextlib.contextmanager
        def paused() -> Iterator[None]:
            screen.close()
            try:
                yield
            finally:
                screen.enter_context(shown())

        _pauses.append(paused)
        try:
            yield report
        finally:
            _pauses.remove(paused)


#: How to take away the bars that are on the screen.
_pauses: list[Callable[[], AbstractContextManager[None]]] = []


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Take bars away as long as something is asked on the terminal."""
    with contextlib.ExitStack() as stack:
        for pause in _pauses:
            stack.enter_context(pause())
        yield


def _nothing(done: float, total: float, note: str) -> None:
    del done, total, note


@contextlib.contextmanager
def hosts(description: str, total: int) -> Iterator[Callable[[Any], None]]:
    """Show how many hosts have an outcome; yields the ``on_outcome`` that a fan-out calls."""
    with bar(description, total, "hosts") as report:
        counts = {"done": 0, "bad": 0}

        def on_outcome(outcome: Any) -> None:
            counts["done"] += 1
            counts["bad"] += outcome.status != "ok"
            report(counts["done"], total, f"{counts['bad']} not ok" if counts["bad"] else "")

        yield on_outcome
