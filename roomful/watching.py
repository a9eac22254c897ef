"""Collecting again and again while tasks run, until the queue has nothing left that waits or runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from roomful.collect import Collected
from roomful.outcome import Outcome, Outcomes
from roomful.queue import Queue

#: From the end of one collection to the beginning of the next, in seconds, unless all tasks have ended before.
PAUSE_SECONDS = 10.0
#: A pause is at least so many times as long as the collection before it: hosts are there to compute.
PAUSE_SHARE = 4.0


@dataclass(frozen=True)
class Pass:
    """One collection: what it brought, and how many tasks had not ended when it began."""

    files_new: int
    bytes_received: int
    left: int


def watch(
    collect: Callable[[bool], Outcomes[Collected]], queue: Queue, on_pass: Callable[[Pass], None]
) -> Outcomes[Collected]:
    """Collect until nothing waits or runs, and return the last outcomes, with what all collections brought.

    ``collect`` is told whether tasks run meanwhile: then files that are being written are to be left out. Ends early
    with the outcomes of an interrupted collection; a KeyboardInterrupt between two passes through.
    """
    total: Outcomes[Collected] | None = None
    while True:
        start = time.monotonic()
        counts = queue.counts()
        left = counts.todo + counts.running
        latest = collect(left > 0)
        total = added(total, latest)
        if any(outcome.reason == "interrupted" for outcome in latest):
            return total
        values = [outcome.value for outcome in latest if outcome.value]
        files, received = sum(value.files_new for value in values), sum(value.bytes_received for value in values)
        on_pass(Pass(files, received, left))
        if left == 0:
            return total
        queue.wait(timeout=max(PAUSE_SECONDS, PAUSE_SHARE * (time.monotonic() - start)))


def added(before: Outcomes[Collected] | None, latest: Outcomes[Collected]) -> Outcomes[Collected]:
    """Return the latest outcomes with what was new in those before them, by host."""
    known = {outcome.host: outcome.value for outcome in before or () if outcome.value}

    def add(outcome: Outcome[Collected]) -> Outcome[Collected]:
        old = known.get(outcome.host)
        if old is None or outcome.value is None:
            return outcome
        files = old.files_new + outcome.value.files_new
        received = old.bytes_received + outcome.value.bytes_received
        return replace(outcome, value=replace(outcome.value, files_new=files, bytes_received=received))

    return Outcomes(map(add, latest))
