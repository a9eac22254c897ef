"""Task ids as people write them."""

from __future__ import annotations

import pytest

from roomful.errors import InputError
from roomful.task_selection import TaskIds, parse_selection


@pytest.mark.parametrize(
    ("text", "highest", "expected"),
    [
        ("5", 10, [5]),
        ("1,3-5", 10, [1, 3, 4, 5]),
        (" 3 , 1 ", 10, [1, 3]),
        ("3-5,4-6,6", 10, [3, 4, 5, 6]),
        ("last", 10, [10]),
        ("1,last", 10, [1, 10]),
        ("all", 3, [1, 2, 3]),
        ("all", 0, []),
        ("10-10", 10, [10]),
    ],
)
def test_selections(text: str, highest: int, expected: list[int]) -> None:
    assert list(parse_selection(text).resolve(highest)) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-3", "3-", "5-3", "1,,2", "1;2", "all,1", "1-2-3", "٣", "9" * 16, "first"]
)
def test_bad_selections_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write task ids: 5, or 1,3-8, or last, or all"):
        parse_selection(text)


@pytest.mark.parametrize(
    ("text", "highest", "says"),
    [
        ("11", 10, "no task 11: the last one is 10"),
        ("3-900", 10, "no task 900: the last one is 10"),
        ("last", 0, "no task last: the queue has no tasks yet"),
        ("1", 0, "no task 1: the queue has no tasks yet"),
    ],
)
def test_ids_beyond_the_last_are_refused(text: str, highest: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_selection(text).resolve(highest)


def test_a_huge_range_costs_nothing() -> None:
    ids = parse_selection("1-900000000000000").resolve(900_000_000_000_000)
    assert len(ids) == 900_000_000_000_000
    assert next(iter(ids)) == 1


def test_ids_fold_into_a_selection_that_reads_back() -> None:
    ids = TaskIds.of([8, 1, 3, 2, 10, 9])
    assert str(ids) == "1-3,8-10"
    assert len(ids) == 6
    assert list(parse_selection(str(ids)).resolve(10)) == [1, 2, 3, 8, 9, 10]
