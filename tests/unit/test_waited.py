"""What a wait for tasks adds up to."""

from __future__ import annotations

from pathlib import Path

from roomful.agent.task import TaskSpec
from roomful.deliverer import DeliveryReport, Undelivered
from roomful.records import State, TaskRecord
from roomful.waiting import Waited


def ended(task_id: int, state: State) -> TaskRecord:
    return TaskRecord(task_id, state, TaskSpec("x"), ended_ms=1)


def test_a_task_that_was_tried_again_counts_once() -> None:
    state = Waited(total=3)
    for record in (ended(1, "failed"), ended(2, "done"), ended(1, "done"), ended(3, "cancelled"), ended(3, "done")):
        state.take(record)
    assert (state.done, state.failed, state.cancelled) == ({1, 2, 3}, set(), set())
    assert state.ended == 3
    assert state.succeeded


def test_success_needs_every_task_and_every_result() -> None:
    state = Waited(total=2, done={1})
    assert not state.succeeded
    assert state.sentence.startswith("1 done, 0 failed, 1 removed from the queue in ")
    state.done.add(2)
    assert state.succeeded
    state.deliveries = DeliveryReport(delivered=1, problems=[Undelivered(2, Path("/r"), "gone")])
    assert not state.succeeded
    assert state.document()["results_not_delivered"] == [{"id": 2, "path": "/r", "why": "gone"}]


def test_the_time_left_follows_the_rate() -> None:
    assert Waited(total=10).eta_seconds is None
    assert Waited(total=10, done={1, 2}, rate=4.0).eta_seconds == 2.0


def test_the_sentence_and_the_document() -> None:
    state = Waited(total=5, done={1, 2}, failed={5, 3}, cancelled={4}, seconds=61.2)
    assert state.sentence == "2 done, 2 failed, 1 cancelled in 1 min 1 s"
    document = state.document()
    assert (document["failed_ids"], document["cancelled_ids"], document["seconds"]) == ("3,5", "4", 61.2)
