"""The shares of a host's memory at which tasks stop starting, and go back, where nobody has set them."""

from __future__ import annotations

import pytest

from roomful.agent.host import Cgroup, Memory
from roomful.agent.memory_watch import MIB, MemoryWatch
from roomful.agent.tuning import Tuning

GIB = 1024 * MIB
HOST = 100 * GIB


def watch(free: int, **settings: int) -> MemoryWatch:
    """A host of 100 GiB with so much free memory."""
    found = MemoryWatch(Tuning("h", {name: str(value) for name, value in settings.items()}), Cgroup((), ()))
    found.memory = Memory(HOST, free)
    return found


@pytest.mark.parametrize(("free", "refused"), [(5 * GIB, False), (5 * GIB - 1, True)])
def test_a_twentieth_must_be_free_to_start_a_task(free: int, refused: bool) -> None:
    assert bool(watch(free).refusal()) is refused


@pytest.mark.parametrize(("free", "refused"), [(7 * GIB, False), (7 * GIB - 1, True)])
def test_or_what_the_setting_says(free: int, refused: bool) -> None:
    assert bool(watch(free, memory_accept=7 * GIB).refusal()) is refused


def test_a_refusal_says_what_is_free_and_what_is_needed() -> None:
    assert watch(GIB).refusal() == "1024 MiB of memory are free, 5120 needed to start a task"
