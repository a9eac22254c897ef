"""The ledger never gives away more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomful.agent.ledger import Ledger
from roomful.agent.task import TaskClass

NEEDS = st.builds(TaskClass, st.just(0), st.integers(0, 5000), st.integers(0, 5000))


@given(st.integers(0, 8000), st.integers(0, 8000), st.integers(0, 9), st.lists(st.tuples(NEEDS, st.integers(0, 5))))
def test_the_sum_of_what_was_taken_never_exceeds_the_host(
    cpu: int, memory: int, slots: int, steps: list[tuple[TaskClass, int]]
) -> None:
    ledger = Ledger(cpu, memory, slots)
    held: list[tuple[TaskClass, int]] = []
    for needs, action in steps:
        if action == 0 and held:
            ledger.give(*held.pop())
        slot = ledger.take(needs)
        fits = (
            sum(taken.cpu_milli for taken, _ in held) + needs.cpu_milli <= cpu
            and sum(taken.memory_mib for taken, _ in held) + needs.memory_mib <= memory
            and len(held) < ledger.limit
        )
        assert (slot is not None) is fits, "what fits is taken, and nothing else"
        if slot is not None:
            held.append((needs, slot))
        assert len({number for _, number in held}) == len(held), "no two tasks in one slot"
        assert all(1 <= number <= max(1, len(steps)) for _, number in held)


def test_slots_are_numbered_from_one_and_the_lowest_is_used_again() -> None:
    ledger = Ledger(9000, 9000, 3)
    needs = TaskClass(0, 1, 1)
    assert [ledger.take(needs) for _ in range(4)] == [1, 2, 3, None]
    ledger.give(needs, 3)
    ledger.give(needs, 1)
    assert [ledger.take(needs) for _ in range(3)] == [1, 3, None]


def test_fewer_slots_take_effect_as_tasks_end() -> None:
    ledger = Ledger(9000, 9000, 3)
    needs = TaskClass(0, 1, 1)
    slots = [ledger.take(needs) for _ in range(3)]
    ledger.set_slots(1)
    assert ledger.free_slots == 0
    for slot in slots:
        assert slot
        ledger.give(needs, slot)
    assert ledger.take(needs) is not None
    assert ledger.take(needs) is None
