"""Leases, retries and what is given back: with scripted agents and a real Valkey."""

from __future__ import annotations

import signal
import time

import pytest

from roomful.queue import Queue
from tests.support.agents import Room, Scripted
from tests.support.queues import add, state


def test_a_lease_ends_in_silence_and_a_heartbeat_keeps_it(queue: Queue) -> None:
    add(queue, "a", "b")
    dead, alive = Scripted(queue, "dead"), Scripted(queue, "alive")
    dead.claim()
    held = alive.claim()
    deadline = time.monotonic() + 20
    lost: list[str] = []
    while not lost and time.monotonic() < deadline:
        alive.beat(*held)
        lost = [entry.agent for entry in queue.expire(lease_seconds=0.5, silence_seconds=9)]
        time.sleep(0.05)
    assert lost == [dead.name]
    assert [state(queue, task_id) for task_id in (1, 2)] == ["todo", "running"]
    assert dead.claim() == []
    assert dead.status == "unknown", "it must register again"
    assert {client.host: client.state for client in queue.clients()} == {"dead": "lost", "alive": "live"}


def test_an_agent_on_a_host_that_answers_has_less_time(queue: Queue) -> None:
    Scripted(queue, "link-up"), Scripted(queue, "link-down")
    queue.expire()
    time.sleep(0.3)
    lost = queue.expire(lease_seconds=30, silence_seconds=0.2, alive_hosts=["link-up"])
    assert [entry.agent for entry in lost] == ["link-up#1"]


def test_the_servers_own_absence_expires_nobody(server: Room, queue: Queue) -> None:
    add(queue, "a")
    agent = Scripted(queue, "h")
    agent.claim()
    queue.expire()
    server.valkey.signal(signal.SIGSTOP)
    time.sleep(3.3)
    server.valkey.signal(signal.SIGCONT)
    assert queue.expire(lease_seconds=2, silence_seconds=1, alive_hosts=["h"]) == []
    server.valkey.signal(signal.SIGKILL)
    time.sleep(3.3)
    server.valkey.start()
    assert queue.expire(lease_seconds=2, silence_seconds=1, alive_hosts=["h"]) == []
    assert state(queue, 1) == "running"


def test_an_agent_takes_back_what_nobody_has_begun_since(queue: Queue) -> None:
    add(queue, "a", "b")
    agent, other = Scripted(queue, "h"), Scripted(queue, "other")
    assert agent.claim(2) == [(1, 1), (2, 1)]
    queue.expire()
    time.sleep(0.1)
    queue.expire(lease_seconds=0.05)
    other.register()
    assert other.claim() == [(1, 2)]
    assert agent.register([(1, 1), (2, 1)]) == [1], "the first is another's by now"
    assert agent.finish(2, 1) == "ok"
    record = queue.task(2)
    assert record
    assert (record.attempt, record.tries) == (1, ())
    assert queue.counts().late == 0


def test_a_restarted_agent_frees_what_its_predecessor_held_at_once(queue: Queue) -> None:
    add(queue, "a", "b")
    Scripted(queue, "h", instance="folder").claim()
    Scripted(queue, "other")
    successor = Scripted(queue, "h", instance="folder")
    assert successor.name == "h#2"
    assert successor.claim(2) == [(1, 2), (2, 1)], "its own again, though there is another host"
    assert [client.agent for client in queue.clients()] == ["h#2", "other#1"]
    record = queue.task(1)
    assert record
    assert [entry.reason for entry in record.tries] == ["restarted"]


def test_two_agents_under_one_label_but_in_two_folders_leave_each_other_alone(queue: Queue) -> None:
    add(queue, "a")
    Scripted(queue, "h", instance="folder").claim()
    assert Scripted(queue, "h", instance="other folder").claim() == []


def test_a_failed_task_is_tried_elsewhere_first(queue: Queue) -> None:
    add(queue, "a", retries=2)
    one, two = Scripted(queue, "one"), Scripted(queue, "two")
    one.claim()
    assert one.finish(1, 1, exit_code=1) == "retry"
    assert one.claim() == [], "the other host has not seen it yet"
    assert two.claim() == [(1, 2)]
    assert two.finish(1, 2, exit_code=1) == "retry"
    assert one.claim() == [(1, 3)], "all have seen it: any may take it"
    assert one.finish(1, 3, exit_code=4) == "ok"
    record = queue.task(1)
    assert record
    assert record.state == "failed"
    assert record.reason == "exit 4"
    assert [(entry.host, entry.reason) for entry in record.tries] == [("one", "exit 1"), ("two", "exit 1")]


def test_tasks_that_say_no_retries_have_those_of_the_setting(queue: Queue) -> None:
    queue.configure({"retries": 1})
    add(queue, "a")
    add(queue, "b", retries=0)
    agent = Scripted(queue, "h")
    agent.claim(2)
    assert [agent.finish(task_id, 1, exit_code=1) for task_id in (1, 2)] == ["retry", "ok"]
    agent.claim()
    assert agent.finish(1, 2, exit_code=1) == "ok"
    assert [state(queue, task_id) for task_id in (1, 2)] == ["failed", "failed"]


@pytest.mark.parametrize("why", ["too few CPUs", "too little memory", "drained", "gone"])
def test_a_failed_task_stays_where_it_failed_if_no_other_host_can_take_it(queue: Queue, why: str) -> None:
    add(queue, "a", retries=1, cpus=4, memory_bytes=4 << 30)
    one = Scripted(queue, "one")
    cpus, memory_mib = 2 if why == "too few CPUs" else 4, 2048 if why == "too little memory" else 4096
    Scripted(queue, "two", cpus=cpus, memory_mib=memory_mib)
    if why == "drained":
        queue.drain(["two"])
    one.claim()
    one.finish(1, 1, exit_code=1)
    if why == "gone":
        queue.scripts.call("leave", "two#1")
    assert one.claim() == [(1, 2)]


def test_a_task_that_goes_down_with_its_hosts_is_given_up(server: Room, queue: Queue) -> None:
    add(queue, "poison")
    for number in range(1, 4):
        agent = Scripted(queue, f"host{number}")
        assert agent.claim() == [(1, number)]
        # A slow disk delays even the writing: then a killed server forgets a claim, and the attempt does not count.
        client = server.valkey.client()
        client.set("mark", number)
        client.execute_command("WAITAOF", 1, 0, 10_000)
        server.valkey.signal(signal.SIGKILL)
        server.valkey.start()
        queue.expire()
        time.sleep(0.1)
        queue.expire(lease_seconds=0.05)
    record = queue.task(1)
    assert record
    assert (record.state, record.reason) == ("failed", "lost")
    assert "host3" in record.detail
    assert Scripted(queue, "host4").claim() == []


def test_stops_and_evictions_do_not_count(queue: Queue) -> None:
    add(queue, "a", memory_bytes=1 << 20, retries=1)
    agent = Scripted(queue, "h")
    for number in range(1, 6):
        assert agent.claim() == [(1, number)]
        agent.requeue("stopped" if number % 2 else "evicted", (1, number, 100))
    assert agent.claim(memory=99) == [], "it was seen to need 100 MiB"
    assert agent.claim(memory=100) == [(1, 6)]
    assert agent.finish(1, 6, exit_code=1) == "retry", "its first failure"
    assert agent.claim() == [(1, 7)]
    assert agent.finish(1, 7, exit_code=1) == "ok", "its second"


def test_what_was_seen_to_need_more_than_any_host_has_gets_the_largest_to_itself(queue: Queue) -> None:
    add(queue, "a", "b")
    small, large = Scripted(queue, "small", memory_mib=1024), Scripted(queue, "large", memory_mib=4096)
    large.claim()
    large.requeue("evicted", (1, 1, 6000))
    assert small.claim() == [(2, 1)], "it has less"
    assert large.claim(memory=4095) == [], "others run there"
    assert large.claim() == [(1, 2)]


def test_what_was_taken_ahead_goes_back_to_the_front_in_order(queue: Queue) -> None:
    add(queue, *"abcdef")
    one, two = Scripted(queue, "one"), Scripted(queue, "two")
    assert [task_id for task_id, _ in one.claim(4)] == [1, 2, 3, 4]
    assert one.requeue("released", (2, 1, 0), (3, 1, 0), (4, 1, 0)) == 3
    assert two.claim(4) == [(2, 2), (3, 2), (4, 2), (5, 1)]
    assert queue.task(2).tries == ()  # type: ignore[union-attr]


def test_a_heartbeat_names_the_tasks_that_are_not_the_agents_any_more(queue: Queue) -> None:
    add(queue, "a", "b", "c")
    agent = Scripted(queue, "h")
    held = agent.claim(3)
    assert agent.beat(*held)[5] == []
    assert queue.cancel([2]) == 1
    assert agent.beat(*held)[5] == [b"2"]
    assert agent.finish(2, 1) == "late"
    assert state(queue, 2) == "cancelled"


def test_what_a_lost_reply_left_with_an_agent_is_found_out(queue: Queue, server: Room) -> None:
    add(queue, "a")
    agent = Scripted(queue, "h")
    agent.claim()
    agent.beat(complete=True)
    assert state(queue, 1) == "running", "the claim is too young"
    server.valkey.client().hset(queue.keys.running, "1", "1,1000,h#1")
    agent.beat(complete=False)
    assert state(queue, 1) == "running", "a claim is under way"
    agent.beat(complete=True)
    assert state(queue, 1) == "todo"


def test_the_output_of_an_earlier_attempt_is_sought_where_that_one_ran(queue: Queue) -> None:
    one, two = Scripted(queue, "one"), Scripted(queue, "two")
    (task_id,) = add(queue, "same", retries=1)
    [claimed] = one.claim()
    kept = f"200000 /spool/{task_id}.1.stdout\n".encode() + bytes(65536)
    head = f'{task_id} {claimed[1]} failed 0 1000 {len(kept)} 0\n{{"exit": 1, "reason": "exit 1"}}\n'
    assert queue.scripts.call("finish", one.name, head.encode() + kept) == b"retry"
    assert two.claim() == [(task_id, 2)]
    assert queue.output(task_id).host == "one"
    queue.cancel([task_id])
    record = queue.task(task_id)
    assert record
    assert (record.state, record.host) == ("cancelled", "two")
    output = queue.output(task_id)
    assert (output.host, output.path) == ("one", f"/spool/{task_id}.1.stdout")
