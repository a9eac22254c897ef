"""Which hosts share a disk, from what each of them saw."""

from __future__ import annotations

import pytest

from roomful.clean import disks


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
