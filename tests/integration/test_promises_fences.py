"""Results are accepted from who holds the task at that attempt, and from nobody else."""

from __future__ import annotations

from roomful.queue import Queue
from tests.support.agents import Scripted
from tests.support.queues import add


def test_a_report_from_who_does_not_hold_the_task_is_not_accepted(queue: Queue) -> None:
    add(queue, "a")
    holder, other = Scripted(queue, "holder"), Scripted(queue, "other")
    assert holder.claim() == [(1, 1)]
    assert other.finish(1, 1, exit_code=5) == "late"
    assert holder.finish(1, 1) == "ok"
    record = queue.task(1)
    assert record
    assert (record.state, record.host, record.exit_code) == ("done", "holder", 0)
    assert list(queue.late()) == ["1:1"]
