"""Turns of hosts on shared disks."""

from __future__ import annotations

import threading

import pytest

from roomful.sharing import Sharing, disks


def test_hosts_on_one_disk_take_turns_and_see_who_did_it() -> None:
    sharing = Sharing()
    seen: dict[int, int | None] = {}
    busy = 0

    def work(index: int, marks: list[int]) -> None:
        nonlocal busy
        with sharing.turn(index, marks) as turn:
            busy += 1
            assert busy == 1
            seen[index] = turn.done_by
            if turn.done_by is None:
                turn.done()
            busy -= 1

    # 1 comes first, though 0 left its mark before; 2 saw only 1, and 3 nobody: it came before both and says so later.
    threads = [threading.Thread(target=work, args=item) for item in ((1, [3]), (0, [1, 3]), (2, [1]), (3, []))]
    for thread in threads:
        thread.start()
        thread.join()
    assert seen == {1: None, 0: 1, 2: 1, 3: 1}


def test_hosts_apart_do_not_wait_for_each_other() -> None:
    sharing = Sharing()
    with sharing.turn(0, []) as first, sharing.turn(1, []) as second:
        first.done()
        assert second.done_by is None


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param({0: [], 1: []}, {0: 0, 1: 1}, id="apart"),
        pytest.param({0: [], 1: [0]}, {0: 0, 1: 0}, id="one saw the other"),
        pytest.param({2: [5], 5: [9], 9: [], 4: []}, {2: 2, 5: 2, 9: 2, 4: 4}, id="in a row"),
        pytest.param({3: [1], 1: [0], 0: [3]}, {0: 0, 1: 0, 3: 0}, id="in a ring"),
        pytest.param({1: [0]}, {1: 1}, id="the other did not answer"),
    ],
)
def test_hosts_on_one_disk_have_one_number(seen: dict[int, list[int]], expected: dict[int, int]) -> None:
    assert disks(seen) == expected
