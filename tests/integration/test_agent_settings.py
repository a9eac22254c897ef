"""Settings that change while agents run: followed within one heartbeat, and tasks that run are let be."""

from __future__ import annotations

import time

from roomful.agent.tuning import SETTINGS
from tests.support.agents import PATIENCE, Room
from tests.support.waiting import wait_until

#: What a machine that others share may add.
MARGIN_SECONDS = 2.0


def running(room: Room) -> int:
    return room.queue.counts().running


def within_a_heartbeat(room: Room, count: int) -> None:
    """Wait until so many tasks run, as long as a change of settings may take."""
    seconds = SETTINGS["heartbeat_seconds"][1] + MARGIN_SECONDS
    wait_until(lambda: running(room) == count, seconds, lambda: f"{running(room)} run\n{room.log()}")


def stays(room: Room, count: int) -> None:
    """See that no more than so many run, for as long as it takes to follow and to ask again."""
    end = time.monotonic() + SETTINGS["heartbeat_seconds"][1] + 0.5
    while time.monotonic() < end:
        assert running(room) == count
        time.sleep(0.05)


def test_the_most_tasks_at_a_time_can_be_raised_and_lowered(own: Room) -> None:
    own.queue.configure({"slots": 1})
    own.start(cpus=4)
    go = own.folder / "go"
    ids = own.submit(*(f"while [ ! -e {go}{number} ]; do sleep 0.05; done" for number in range(5)))
    within_a_heartbeat(own, 1)
    stays(own, 1)
    own.queue.configure({"slots": 3})
    within_a_heartbeat(own, 3)
    stays(own, 3)
    # Fewer: those that run go on, and nothing takes their places.
    own.queue.configure({"slots": 1})
    stays(own, 3)
    for number in (0, 1):
        (own.folder / f"go{number}").touch()
    within_a_heartbeat(own, 1)
    stays(own, 1)
    # None: what the host carries.
    own.queue.configure({"slots": None})
    within_a_heartbeat(own, 3)
    for number in (2, 3, 4):
        (own.folder / f"go{number}").touch()
    assert own.queue.wait(ids, timeout=PATIENCE), own.log()
    assert [(record.state, record.attempt) for record in own.queue.tasks()] == [("done", 1)] * 5


def test_no_task_starts_while_less_memory_is_free_than_must_be(own: Room) -> None:
    own.start()
    (first,) = own.run("true")
    assert first.state == "done"
    # More than any machine has.
    own.queue.configure({"memory_accept": 2**55})
    wait_until(lambda: "memory" in own.client("one").busy_with, PATIENCE, lambda: own.client("one"))
    assert own.client("one").busy_with.endswith("needed to start a task")
    (task_id,) = own.submit("echo 2")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert own.queue.task(task_id).state == "todo"  # type: ignore[union-attr]  # it is there
        time.sleep(0.05)
    own.queue.configure({"memory_accept": None})
    seconds = SETTINGS["heartbeat_seconds"][1] + MARGIN_SECONDS
    assert own.queue.wait([task_id], timeout=seconds), own.log()


def test_a_setting_for_one_host_is_that_hosts_alone(own: Room) -> None:
    own.queue.configure({"slots": 1})
    own.queue.configure({"slots": 2}, host="two")
    own.start("one", cpus=4)
    own.start("two", cpus=4)
    own.submit(*(f"sleep 60 # {number}" for number in range(6)))
    within_a_heartbeat(own, 3)
    stays(own, 3)
    assert sorted(client.running for client in own.queue.clients()) == [1, 2]


def test_heartbeats_come_as_often_as_the_setting_says(own: Room) -> None:
    own.start()
    own.queue.configure({"heartbeat_seconds": 0.2})
    time.sleep(SETTINGS["heartbeat_seconds"][1])
    silences = []
    for _ in range(25):
        silences.append(own.queue.clients()[0].seconds_since_heartbeat)
        time.sleep(0.05)
    assert max(silences) < 1.2, silences
    own.queue.configure({"heartbeat_seconds": 60})
    # The last one of the old rhythm, and the one that brings the news.
    time.sleep(0.5)
    before = own.queue.clients()[0].seconds_since_heartbeat
    time.sleep(1.5)
    assert own.queue.clients()[0].seconds_since_heartbeat > before + 1.4
