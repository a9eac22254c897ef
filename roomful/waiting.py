"""Waiting for submitted tasks: how far they are, which failed, and their results carried home as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from roomful.deliverer import Deliverer, DeliveryReport
from roomful.notify import Message
from roomful.queue import Queue
from roomful.records import TaskRecord
from roomful.remote_files import BeforeConnecting
from roomful.report import duration
from roomful.settings import Settings
from roomful.submission import Submission
from roomful.task_selection import TaskIds

#: The rate is that of this last stretch of time.
_RATE_SECONDS = 30.0
#: A longer list of ids is counted instead, in a message.
_LONGEST_IDS = 200


@dataclass
class Waited:
    """How far a submission's tasks are; at the end, what became of them."""

    total: int
    done: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    seconds: float = 0.0
    #: Tasks that ended a second, lately.
    rate: float = 0.0
    deliveries: DeliveryReport = field(default_factory=DeliveryReport)

    @property
    def ended(self) -> int:
        """How many have ended, in whatever way."""
        return len(self.done) + len(self.failed) + len(self.cancelled)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until all have ended if it goes on like this; None if that cannot be said."""
        return (self.total - self.ended) / self.rate if self.rate else None

    @property
    def succeeded(self) -> bool:
        """Whether all are done and every result has arrived."""
        return len(self.done) == self.total and not self.deliveries.problems

    @property
    def sentence(self) -> str:
        """What became of the tasks, for people."""
        parts = [f"{len(self.done)} done", f"{len(self.failed)} failed"]
        parts += [f"{len(self.cancelled)} cancelled"] if self.cancelled else []
        gone = self.total - self.ended
        parts += [f"{gone} removed from the queue"] if gone else []
        delivered = f"; {self.deliveries.delivered} results delivered" if self.deliveries.delivered else ""
        return f"{', '.join(parts)} in {duration(self.seconds)}{delivered}"

    def message(self, name: str, where: str) -> Message:
        """Return the word that goes out at the end: ``name`` is what was submitted, ``where`` the project's place."""
        lines = [f"tasks of {name}, submitted in {where}"]
        if self.failed:
            failed = str(TaskIds.of(self.failed))
            failed = failed if len(failed) <= _LONGEST_IDS else f"{len(self.failed)} tasks"
            lines.append(f"failed: {failed}; list them: inv tasks --state failed; try again: inv retry --failed")
        lines += [f"result of task {one.task_id} not delivered: {one.why}" for one in self.deliveries.problems[:10]]
        lines.append("results: inv collect, or inv logs ID")
        return Message(f"{name}: {self.sentence}", "\n".join(lines))

    def take(self, record: TaskRecord) -> None:
        """Take in a task that has ended; a task that was tried again may come twice."""
        for name in ("done", "failed", "cancelled"):
            ids: set[int] = getattr(self, name)
            if name == record.state:
                ids.add(record.id)
            else:
                ids.discard(record.id)

    def document(self) -> dict[str, Any]:
        """Return what ``inv submit --wait --json`` adds to its document."""
        return {
            "done": len(self.done),
            "failed": len(self.failed),
            "cancelled": len(self.cancelled),
            "failed_ids": str(TaskIds.of(self.failed)),
            "cancelled_ids": str(TaskIds.of(self.cancelled)),
            "seconds": round(self.seconds, 3),
            "results_delivered": self.deliveries.delivered,
            "results_not_delivered": [
                {"id": item.task_id, "path": str(item.path), "why": item.why} for item in self.deliveries.problems
            ],
        }


def wait(
    queue: Queue,
    submission: Submission,
    settings: Settings,
    on_progress: Callable[[Waited], None],
    before_connecting: BeforeConnecting | None = None,
) -> Waited:
    """Wait until every task of a submission has ended, and deliver results on the way.

    ``on_progress`` is called about once a second. Needs a submission made ``with_ids``. A KeyboardInterrupt passes
    through: the tasks go on, and what has been delivered stays noted.
    """
    ids = set(submission.line_ids if submission.line_ids is not None else submission.added)
    state = Waited(total=len(ids))
    deliverer = Deliverer(queue, settings, before_connecting=before_connecting)
    cursor = submission.since
    start = time.monotonic()
    marks = [(start, 0)]

    def take(records: Iterable[TaskRecord]) -> None:
        fresh = []
        for record in records:
            if record.id in ids:
                if record.state == "done" and record.id not in state.done:
                    fresh.append(record.id)
                state.take(record)
        if submission.batch:
            made = deliverer.deliver(submission.batch, fresh)
            state.deliveries.delivered += made.delivered
            state.deliveries.problems += made.problems

    def news() -> Iterator[TaskRecord]:
        nonlocal cursor
        for record in queue.outcomes(cursor):
            cursor = record.cursor
            yield record

    def look(_: object = None) -> None:
        take(news())
        now = time.monotonic()
        marks.append((now, state.ended))
        while now - marks[1][0] > _RATE_SECONDS:
            marks.pop(0)
        state.seconds = now - start
        state.rate = (state.ended - marks[0][1]) / max(now - marks[0][0], 0.001)
        on_progress(state)

    if submission.report.skipped:
        # Duplicates may have ended long ago.
        take(record for record in queue.tasks(ids=sorted(ids)) if record.ended_ms)
    queue.wait(ids, look)
    look()
    if submission.batch:
        deliverer.book.finish(submission.batch)
    return state
