"""Waiting for submitted tasks: how far they are on standard error, and the exit code at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from invoke import Exit

from ._fanout import enter_lab

if TYPE_CHECKING:
    from roomful.queue import Queue
    from roomful.settings import Settings
    from roomful.submission import Submission
    from roomful.waiting import Waited

#: Between two lines where standard error is no terminal.
LINE_SECONDS = 10.0
#: Problems that are shown one by one.
SHOWN_PROBLEMS = 10
#: A longer list of ids is not repeated in the hints.
LONGEST_IDS = 200


@contextlib.contextmanager
def going_on(again: str) -> Iterator[None]:
    """Let Ctrl-C say that the tasks go on, how to watch them, and ``again``, the command that waits for them."""
    try:
        yield
    except KeyboardInterrupt:
        words = "the tasks go on; watch them: inv status --watch"
        raise Exit(f"{words}; wait for them again: {again}" if again else words, code=130) from None


def wait(queue: Queue, sent: Submission, settings: Settings) -> Waited:
    """Wait for a submission's tasks, and show how far they are."""
    from roomful import waiting

    with _shown(sent.count) as progress:
        return waiting.wait(queue, sent, settings, progress, before_connecting=enter_lab)


def finish(waited: Waited) -> None:
    """Name what failed and what to do about it; exit 1 unless all is well."""
    from roomful.task_selection import TaskIds

    problems = waited.deliveries.problems
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"result of task {problem.task_id} not delivered to {problem.path}: {problem.why}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} results not delivered; inv collect tries again", file=sys.stderr)
    if waited.failed:
        failed = str(TaskIds.of(waited.failed))
        hints = f": {failed}; what they said: inv logs {failed} --stderr; try again: inv retry {failed}"
        if len(failed) > LONGEST_IDS:
            hints = "; list them: inv tasks --state failed; try again: inv retry --failed"
        raise Exit(f"{len(waited.failed)} of {waited.total} tasks failed{hints}", code=1)
    if not waited.succeeded:
        raise Exit(code=1)


@contextlib.contextmanager
def _shown(total: int) -> Iterator[Callable[[Waited], None]]:
    """Yield the function that is told how far the tasks are."""
    from roomful import monitor, progress, report

    def note(state: Waited) -> str:
        failed = f", {len(state.failed)} failed" if state.failed else ""
        return f"{monitor.rate_text(state.rate)}{failed}" if state.rate else failed.lstrip(", ")

    if sys.stderr.isatty():
        with progress.bar("tasks", total, "tasks") as draw:
            yield lambda state: draw(state.ended, state.total, note(state))
        return
    next_line = time.monotonic() + LINE_SECONDS

    def write(state: Waited) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + LINE_SECONDS
            left = "" if state.eta_seconds is None else f", about {report.duration(state.eta_seconds)} left"
            parts = ", ".join(part for part in (f"{state.ended} of {state.total} tasks ended", note(state)) if part)
            print(f"{parts}{left}", file=sys.stderr, flush=True)

    yield write
