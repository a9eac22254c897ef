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


@contextlib.contextmanager
def moved_bytes(description: str, note: str) -> Iterator[Report]:
    """Show how many bytes have moved, a rate and the time left; until the first report only the note."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from roomful.report import size

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}")]
    columns += [TransferSpeedColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    columns += [TextColumn("{task.fields[note]}", markup=False)]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None, note=note, amount="")

        def report(done: float, total: float, note: str) -> None:
            amount = f"{size(int(done))} of {size(int(total))}" if total else "nothing new"
            progress.update(task, completed=done, total=total or None, note=note, amount=amount)

        yield report


def _nothing(done: float, total: float, note: str) -> None:
    del done, total, note


class Fleet:
    """How many hosts have an outcome, for ``on_outcome``, and how many bytes went to them, for ``on_bytes``."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total = report, total
        self._done = self._bad = self._bytes = 0

    def on_outcome(self, outcome: Any) -> None:
        self._done += 1
        self._bad += outcome.status != "ok"
        self._show()

    def on_bytes(self, sent: int) -> None:
        self._bytes = sent
        self._show()

    def _show(self) -> None:
        from roomful.report import size

        notes = [f"{size(self._bytes)} sent"] if self._bytes else []
        notes += [f"{self._bad} not ok"] if self._bad else []
        self._report(self._done, self._total, ", ".join(notes))


@contextlib.contextmanager
def fleet(description: str, total: int) -> Iterator[Fleet]:
    """Show how many hosts have an outcome, and what was sent to all of them."""
    with bar(description, total, "hosts") as report:
        yield Fleet(report, total)


@contextlib.contextmanager
def hosts(description: str, total: int) -> Iterator[Callable[[Any], None]]:
    """Show how many hosts have an outcome; yields the ``on_outcome`` that a fan-out calls."""
    with fleet(description, total) as shown:
        yield shown.on_outcome
