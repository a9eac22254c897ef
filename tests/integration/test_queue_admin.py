"""What an operator does with the queue: cancel, retry, forget, drain, requeue, reset, find, and change settings."""

from __future__ import annotations

import time

import pytest

from roomful.errors import InputError
from roomful.queue import Queue, TaskSpec
from tests.support.agents import Room, Scripted
from tests.support.queues import add, state


def test_cancelled_tasks_are_passed_over_and_come_back_when_retried(queue: Queue) -> None:
    ids = add(queue, *(f"echo {number}" for number in range(20)))
    agent = Scripted(queue, "h", cpus=64)
    assert queue.cancel(ids[:10]) == 10
    assert queue.cancel(ids[:10]) == 0
    assert queue.retry([ids[3]]) == 1
    assert [task_id for task_id, _ in agent.claim(64)] == [ids[3], *ids[10:]]
    counts = queue.counts()
    assert (counts.todo, counts.running, counts.cancelled) == (0, 11, 9)


def test_many_cancelled_tasks_do_not_hold_up_a_claim(queue: Queue) -> None:
    add(queue, *(f"echo {number}" for number in range(12_000)), "last")
    queue.cancel(range(1, 12_001))
    agent = Scripted(queue, "h")
    calls = 1
    while not (got := agent.claim()):
        assert agent.status == "more"
        calls += 1
    assert got == [(12_001, 1)]
    assert calls == 3


def test_retry_starts_anew_but_keeps_number_and_history(queue: Queue) -> None:
    add(queue, "a", retries=1)
    agent = Scripted(queue, "h")
    for attempt in (1, 2):
        assert agent.claim() == [(1, attempt)]
        agent.finish(1, attempt, exit_code=9)
    assert queue.retry() == 1
    Scripted(queue, "other")
    assert agent.claim() == [(1, 3)], "on the same host, though there is another one: it starts anew"
    agent.finish(1, 3)
    record = queue.task(1)
    assert record
    assert [(entry.attempt, entry.reason) for entry in record.tries] == [(1, "exit 9"), (2, "exit 9")]
    assert queue.retry([1]) == 0, "what is done stays done"


def test_retry_gives_a_task_its_number_of_tries_again(queue: Queue) -> None:
    add(queue, "a", retries=1)
    agent = Scripted(queue, "h")
    for attempt in (1, 3):
        for number, verdict in ((attempt, "retry"), (attempt + 1, "ok")):
            assert agent.claim() == [(1, number)]
            assert agent.finish(1, number, exit_code=1) == verdict
        assert state(queue, 1) == "failed"
        assert queue.retry() == 1


def test_retry_of_all_failed_tasks_leaves_the_cancelled_ones(queue: Queue) -> None:
    add(queue, "a", "b", "c")
    agent = Scripted(queue, "h")
    agent.claim()
    agent.finish(1, 1, exit_code=1)
    queue.cancel([2])
    assert queue.retry() == 1
    assert [state(queue, task_id) for task_id in (1, 2, 3)] == ["todo", "cancelled", "todo"]


def test_cancelling_all_takes_what_waits_and_what_runs(queue: Queue) -> None:
    add(queue, "a", "b", "c")
    agent = Scripted(queue, "h")
    agent.claim(2)
    agent.finish(1, 1)
    assert queue.cancel() == 2
    assert [state(queue, task_id) for task_id in (1, 2, 3)] == ["done", "cancelled", "cancelled"]


def test_requeueing_a_host_takes_its_tasks_alone_and_counts_nothing(queue: Queue) -> None:
    add(queue, "a", "b", "c")
    one, two = Scripted(queue, "one"), Scripted(queue, "two")
    one.claim(2)
    two.claim()
    for attempt in range(1, 5):
        assert queue.requeue_host("one") == 2
        assert state(queue, 3) == "running"
        assert one.claim(2) == [(1, attempt + 1), (2, attempt + 1)], "in their order, and never given up"
    record = queue.task(1)
    assert record
    assert {(entry.host, entry.reason) for entry in record.tries} == {("one", "stopped")}


def test_forget_removes_every_trace(server: Room, queue: Queue) -> None:
    add(queue, "a", "b")
    agent = Scripted(queue, "h")
    agent.claim()
    agent.finish(1, 1, stdout=b"x" * 1000)
    assert queue.forget([1, 2]) == 1, "what has not ended stays"
    assert queue.task(1) is None
    assert queue.submit([TaskSpec(command="a")]).added == 1
    keys = [key for key in server.valkey.client().scan_iter() if b"stdout" in key]
    assert keys == []


def test_drained_hosts_take_nothing_until_they_resume(queue: Queue) -> None:
    add(queue, "a")
    agent = Scripted(queue, "h")
    assert queue.drain(["h"]) == 1
    assert agent.claim() == []
    assert agent.status == "draining"
    assert agent.beat()[1] == b"1"
    assert queue.clients()[0].state == "draining"
    assert queue.drain(["h"], resume=True) == 1
    assert agent.claim() == [(1, 1)]


def test_reset_removes_tasks_and_keeps_agents_and_ids(queue: Queue) -> None:
    add(queue, "a", "b", "c")
    agent = Scripted(queue, "h")
    held = agent.claim(1)
    assert queue.reset() == 3
    assert queue.counts().total == 0
    assert agent.beat(*held)[5] == [b"1"]
    assert agent.finish(1, 1) == "late"
    assert add(queue, "a") == [4]
    assert agent.claim() == [(4, 1)]


def test_tasks_are_found_by_state_text_and_host(queue: Queue) -> None:
    add(queue, "alpha", "beta", "gamma")
    queue.submit([TaskSpec(command="delta", name="named alpha", tags=("blue",))])
    agent = Scripted(queue, "h")
    agent.claim(2)
    agent.finish(1, 1)
    assert [record.id for record in queue.tasks("done")] == [1]
    assert [record.id for record in queue.tasks("running", host="h")] == [2]
    assert [record.id for record in queue.tasks(match="alpha|blue")] == [1, 4]
    assert [record.id for record in queue.tasks(match="^blue$")] == [4]
    assert [record.id for record in queue.tasks(match="^named")] == [4]
    assert [record.id for record in queue.tasks(match="^delta$")] == [4], "the command alone, not with its name"
    assert [record.id for record in queue.tasks(exclude="^blue$|^$|^beta$")] == [1, 3]
    assert [record.id for record in queue.tasks(match="a$", exclude="^(alpha|delta)")] == [2, 3]
    assert [record.id for record in queue.tasks(limit=2)] == [1, 2]
    with pytest.raises(InputError, match="bad pattern"):
        next(queue.tasks(match="("))


def test_settings_reach_agents_with_their_version(queue: Queue) -> None:
    agent = Scripted(queue, "h")
    queue.configure({"max_load": 2.5, "while_idle": "yes"})
    queue.configure({"max_load": 4}, host="h")
    _, _, _, version, pairs, _ = agent.beat()
    assert version == b"2"
    assert dict(zip(pairs[::2], pairs[1::2], strict=True))[b"max_load@h"] == b"4"
    assert queue.settings() == {"max_load": "2.5", "max_load@h": "4", "while_idle": "1"}
    queue.configure({"max_load": None})
    assert "max_load" not in queue.settings()
    with pytest.raises(InputError, match="unknown setting 'loud'"):
        queue.configure({"loud": 1})


def _takes(queue: Queue, command: str) -> bool:
    """Tell whether a task like this would be added, without adding it for good."""
    report = queue.submit([TaskSpec(command=command)])
    queue.cancel(report.ids)
    return report.added == 1


def test_a_task_that_failed_and_is_forgotten_leaves_a_later_one_like_it_alone(queue: Queue) -> None:
    agent = Scripted(queue, "h")
    for exit_code in (1, 0):
        add(queue, "same")
        [claimed] = agent.claim()
        agent.finish(*claimed, exit_code=exit_code)
    assert queue.forget([1]) == 1
    assert not _takes(queue, "same")
    assert queue.forget([2]) == 1
    assert _takes(queue, "same")


def test_one_like_several_is_a_duplicate_until_the_last_of_them_is_gone(queue: Queue) -> None:
    agent = Scripted(queue, "h")
    queue.submit([TaskSpec(command="same")] * 2, allow_duplicates=True)
    queue.submit([TaskSpec(command="same")], allow_duplicates=True)
    for task_id, attempt in agent.claim(2):
        agent.finish(task_id, attempt, exit_code=task_id % 2)
    assert (state(queue, 1), state(queue, 2), state(queue, 3)) == ("failed", "done", "todo")
    assert not _takes(queue, "same")
    queue.cancel([3])
    assert not _takes(queue, "same"), "the second is done"
    queue.retry([1])
    queue.forget([2])
    assert not _takes(queue, "same"), "the first waits again"
    queue.cancel([1])
    assert _takes(queue, "same")


def test_waiting_for_a_great_many_tasks_leaves_the_processor_to_others(queue: Queue) -> None:
    ids = queue.submit(TaskSpec(command=f"./simulate --seed={number}") for number in range(150_000)).ids
    before = time.process_time()
    seen: list[int] = []
    assert not queue.wait(ids, progress=lambda counts: seen.append(counts.todo), timeout=12)
    assert time.process_time() - before < 3
    assert seen[-1] == len(ids)
