"""Parameter grids: combinations, names, counts."""

from __future__ import annotations

import pytest

from roomful.errors import InputError
from roomful.experiments import ComputedParam, ParameterGrid


def names(grid: ParameterGrid) -> list[str]:
    return [name for _, name in grid.get()]


def test_the_product_is_in_order_and_named_as_the_seed_shows() -> None:
    grid = ParameterGrid(a=range(1, 3), b=[2, 4], to_file=[True, False])
    assert names(grid) == [
        "a=1_b=2_to_file=True",
        "a=1_b=2_to_file=False",
        "a=1_b=4_to_file=True",
        "a=1_b=4_to_file=False",
        "a=2_b=2_to_file=True",
        "a=2_b=2_to_file=False",
        "a=2_b=4_to_file=True",
        "a=2_b=4_to_file=False",
    ]
    assert next(iter(grid)) == {"a": 1, "b": 2, "to_file": True}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"a": 3, "b": "text", "c": {"x": 1}}, [{"a": 3, "b": "text", "c": {"x": 1}}]),
        ({"a": [], "b": [1, 2]}, [{"b": 1}, {"b": 2}]),
        ({"a": {"y", "x"}}, [{"a": "x"}, {"a": "y"}]),
        ({"a": (value for value in (1, 2))}, [{"a": 1}, {"a": 2}]),
        ({}, [{}]),
    ],
    ids=["scalars", "empty axis", "set", "generator", "nothing"],
)
def test_axes(axes: dict[str, object], expected: list[dict[str, object]]) -> None:
    grid = ParameterGrid(**axes)
    assert list(grid) == expected
    # A generator given as an axis can be used more than once.
    assert list(grid) == expected
    assert grid.count(100) == len(expected)


def test_computed_axes_depend_on_earlier_ones() -> None:
    grid = ParameterGrid(
        a=[1, 2],
        b=[10],
        one=ComputedParam(lambda a, b: a * b),
        several=ComputedParam(lambda a: [a] * a),
        text=ComputedParam(lambda **earlier: ",".join(earlier)),
        none=ComputedParam(lambda a: [] if a == 1 else [a]),
    )
    assert list(grid) == [
        {"a": 1, "b": 10, "one": 10, "several": 1, "text": "a,b,one,several"},
        {"a": 2, "b": 10, "one": 20, "several": 2, "text": "a,b,one,several", "none": 2},
        {"a": 2, "b": 10, "one": 20, "several": 2, "text": "a,b,one,several", "none": 2},
    ]
    assert grid.count(100) == 3
    assert grid.count(2) == 2


def test_a_computed_axis_that_needs_a_later_one_is_refused() -> None:
    grid = ParameterGrid(a=ComputedParam(lambda b: b), b=[1])
    with pytest.raises(InputError, match=r"axis 'a' is computed from b.*only axes before it can be used: none"):
        list(grid)
    with pytest.raises(InputError, match="takes a function, not 3"):
        ComputedParam(3)  # type: ignore[arg-type]


def test_a_huge_product_is_counted_without_being_made() -> None:
    assert ParameterGrid(**{f"p{number}": range(1000) for number in range(10)}).count(10) == 10**30


def test_a_huge_axis_is_counted_without_being_made() -> None:
    grid = ParameterGrid(a=range(10**15))
    assert grid.count(10) == 10**15
    assert next(iter(grid)) == {"a": 0}


def test_update_makes_another_grid() -> None:
    grid = ParameterGrid(a=[1], b=[2])
    assert names(grid.update(a=[5, 6], c=3)) == ["a=5_b=2_c=3", "a=6_b=2_c=3"]
    assert names(grid) == ["a=1_b=2"]
