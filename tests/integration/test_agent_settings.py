"""Settings that change while agents run: followed within one heartbeat, and tasks that run are let be."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from roomful.agent.tuning import SETTINGS
from tests.support.agents import PATIENCE, Room, a_room
from tests.support.waiting import wait_until

#: What a machine that others share may add.
MARGIN_SECONDS = 2.0


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as made:
        yield made


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


def test_the_most_tasks_at_a_time_can_be_raised_and_lowered(room: Room) -> None:
    room.queue.configure({"slots": 1})
    room.start(cpus=4)
    go = room.folder / "go"
    ids = room.submit(*(f"while [ ! -e {go}{number} ]; do sleep 0.05; done" for number in range(5)))
    within_a_heartbeat(room, 1)
    stays(room, 1)
    room.queue.configure({"slots": 3})
    within_a_heartbeat(room, 3)
    stays(room, 3)
    # Fewer: those that run go on, and nothing takes their places.
    room.queue.configure({"slots": 1})
    stays(room, 3)
    for number in (0, 1):
        (room.folder / f"go{number}").touch()
    within_a_heartbeat(room, 1)
    stays(room, 1)
    # None: what the host carries.
    room.queue.configure({"slots": None})
    within_a_heartbeat(room, 3)
    for number in (2, 3, 4):
        (room.folder / f"go{number}").touch()
    assert room.queue.wait(ids, timeout=PATIENCE), room.log()
    assert [(record.state, record.attempt) for record in room.queue.tasks()] == [("done", 1)] * 5


def test_no_task_starts_while_less_memory_is_free_than_must_be(room: Room) -> None:
    room.start()
    (first,) = room.run("true")
    assert first.state == "done"
    # More than any machine has.
    room.queue.configure({"memory_accept": 2**55})
    wait_until(lambda: "memory" in room.client("one").busy_with, PATIENCE, lambda: room.client("one"))
    assert room.client("one").busy_with.endswith("needed to start a task")
    (task_id,) = room.submit("echo 2")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert room.queue.task(task_id).state == "todo"  # type: ignore[union-attr]  # it is there
        time.sleep(0.05)
    room.queue.configure({"memory_accept": None})
    seconds = SETTINGS["heartbeat_seconds"][1] + MARGIN_SECONDS
    assert room.queue.wait([task_id], timeout=seconds), room.log()


def test_a_setting_for_one_host_is_that_hosts_alone(room: Room) -> None:
    room.queue.configure({"slots": 1})
    room.queue.configure({"slots": 2}, host="two")
    room.start("one", cpus=4)
    room.start("two", cpus=4)
    room.submit(*(f"sleep 60 # {number}" for number in range(6)))
    within_a_heartbeat(room, 3)
    stays(room, 3)
    assert sorted(client.running for client in room.queue.clients()) == [1, 2]
