"""Rooms of a test's own; or a server for the tests of one file, and an empty queue on it for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roomful.queue import Queue, TaskSpec
from tests.support.agents import Room, a_room


@pytest.fixture
def own() -> Iterator[Room]:
    """A room of the test's own, without an agent yet."""
    with a_room() as room:
        yield room


@pytest.fixture(scope="module")
def server() -> Iterator[Room]:
    """One server for all tests here; each starts with an empty queue."""
    with a_room() as room:
        yield room


@pytest.fixture
def queue(server: Room) -> Iterator[Queue]:
    """An empty queue."""
    server.valkey.client().flushall()
    return server.queue


def add(queue: Queue, *commands: str, **fields: object) -> list[int]:
    """Submit shell tasks; return their ids."""
    return queue.submit([TaskSpec(command=command, **fields) for command in commands]).ids  # type: ignore[arg-type]


def state(queue: Queue, task_id: int) -> str:
    """Return a task's state."""
    record = queue.task(task_id)
    assert record
    return record.state
