"""From registrations to an order of execution, and what has been finished already."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roomful.errors import InputError
from roomful.experiments import ParameterGrid, Server, ServerList, reg_exp
from roomful.experiments.journal import Journal
from roomful.experiments.plan import count, make_plan
from roomful.experiments.registry import Experiment, Registry

SERVERS = ServerList(Server("a", "10.0.0.1"))


def nothing(servers: ServerList, **params: Any) -> None:
    """Do nothing."""


def registry(*uses: dict[str, Any]) -> Registry:
    found = Registry()
    with found.collecting():
        for number, use in enumerate(uses):

            def function(servers: ServerList, **params: Any) -> None:
                """Do nothing."""

            function.__name__ = f"exp{number}"
            assert reg_exp(servers=SERVERS, **use)(function) is function
    return found


def names(experiments: tuple[Experiment, ...]) -> list[str]:
    return [experiment.name for experiment in experiments]


def test_order_is_that_of_the_file() -> None:
    plan = make_plan(registry({}, {"params": ParameterGrid(a=[2, 1])}, {}).registrations)
    assert names(plan.experiments) == ["exp0", "exp1__a=2", "exp1__a=1", "exp2"]
    assert plan.experiments[0].registration.group == "test_experiments_plan"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("exp1*", ["exp1__a=1_b=x", "exp1__a=2_b=x"]),
        ("*a=2*", ["exp1__a=2_b=x"]),
        ("test_experiments_plan:exp0", ["exp0"]),
        ("nope", []),
    ],
)
def test_filter(pattern: str, expected: list[str]) -> None:
    found = registry({}, {"params": ParameterGrid(a=[1, 2], b="x")})
    assert names(make_plan(found.registrations, pattern).experiments) == expected


def test_run_always_is_beyond_the_filter() -> None:
    plan = make_plan(registry({"run_always": True}, {}, {}).registrations, "exp2")
    assert names(plan.experiments) == ["exp0", "exp2"]


def test_repetitions_are_shuffled_by_the_seed() -> None:
    found = registry({"params": ParameterGrid(a=range(5)), "repeat": 3}, {})
    first, second, other = (make_plan(found.registrations, seed=seed) for seed in (1, 1, 2))
    assert names(first.experiments) == names(second.experiments) != names(other.experiments)
    assert len(set(names(first.experiments))) == 16
    assert first.experiments[-1].name == "exp1"
    assert "exp0__a=4__repeat=3" in names(first.experiments)
    assert names(first.experiments) != sorted(names(first.experiments))
    assert make_plan(found.registrations).seed != make_plan(found.registrations).seed


def test_counting_a_huge_product_is_quick() -> None:
    found = registry({"params": ParameterGrid(**{f"p{number}": range(1000) for number in range(9)}), "repeat": 2})
    assert count(found.registrations) == 2 * 10**27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"servers": [Server("a", "x")]}, r"test_experiments_plan.py:\d+: servers is .*ServerList"),
        ({}, "servers is None"),
        ({"servers": SERVERS, "params": {"a": 1}}, "params is .*ParameterGrid"),
        ({"servers": SERVERS, "max_restarts": -1}, "max_restarts is -1"),
        ({"servers": SERVERS, "repeat": 0}, "repeat is 0"),
        ({"servers": SERVERS, "repeat": "3"}, "repeat is '3'"),
    ],
)
def test_bad_registrations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reg_exp(**arguments)


def test_only_functions_are_experiments() -> None:
    with pytest.raises(InputError, match="is for functions"):
        reg_exp(servers=SERVERS)(3)  # type: ignore[type-var]


async def waits(servers: ServerList) -> None:
    """Run nothing when it is called."""


def yields(servers: ServerList) -> Iterator[None]:
    """Run nothing when it is called."""
    yield


async def both(servers: ServerList) -> AsyncIterator[None]:
    """Run nothing when it is called."""
    yield


@pytest.mark.parametrize("function", [waits, yields, both])
def test_what_would_seem_to_succeed_without_having_run_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=f"cannot run {function.__name__}: to call it runs nothing"):
        reg_exp(servers=SERVERS)(function)


def experiments(**axes: Any) -> tuple[Experiment, ...]:
    grid = {"params": ParameterGrid(**axes)} if axes else {}
    return make_plan(registry(grid).registrations).experiments


class TestJournal:
    """What --resume goes by."""

    def test_parameters_are_part_of_what_is_finished(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j.jsonl")
        one, two = experiments(a=[1, 2])
        journal.begin((one, two), 7, resume=False)
        journal.add(one, "ok")
        journal.add(two, "failed", "because")
        again = Journal(tmp_path / "j.jsonl")
        assert again.finished(one)
        assert not again.finished(two)
        assert again.seed == 7
        assert (tmp_path / "j.jsonl").stat().st_mode & 0o777 == 0o644

    def test_a_run_that_does_not_resume_starts_anew_and_leaves_others_alone(self, tmp_path: Path) -> None:
        one, two = experiments(a=[1, 2])
        journal = Journal(tmp_path / "j.jsonl")
        for experiment in (one, two):
            journal.add(experiment, "ok")
        journal.begin((one,), 1, resume=False)
        again = Journal(tmp_path / "j.jsonl")
        assert not again.finished(one)
        assert again.finished(two)
        again.begin((two,), 1, resume=True)
        assert Journal(tmp_path / "j.jsonl").finished(two)

    def test_a_line_that_was_cut_off_costs_only_itself(self, tmp_path: Path) -> None:
        one, two = experiments(a=[1, 2])
        path = tmp_path / "j.jsonl"
        journal = Journal(path)
        journal.add(one, "ok")
        path.write_text(path.read_text() + '{"version": 1, "key": "cut o')
        Journal(path).add(two, "ok")
        assert all(Journal(path).finished(experiment) for experiment in (one, two))

    def test_distexprunners_own_file_counts(self, tmp_path: Path) -> None:
        one, two = experiments(a=[1, 2])
        old = tmp_path / ".distexprunner"
        entry = {"name": "test_experiments_plan__exp0", "params": {"a": 1}}
        old.write_text(json.dumps(entry, sort_keys=True) + "\nnot json\n[1]\n")
        journal = Journal(tmp_path / "j.jsonl", old)
        assert journal.finished(one)
        assert not journal.finished(two)
        journal.begin((one,), 1, resume=False)
        assert not Journal(tmp_path / "j.jsonl", old).finished(one)

    def test_parameters_that_are_no_json_are_told_apart(self, tmp_path: Path) -> None:
        class Thing:
            pass

        make: Callable[[], tuple[Experiment, ...]] = lambda: experiments(a=[Thing(), Path("x"), Path("y")])  # noqa: E731
        journal = Journal(tmp_path / "j.jsonl")
        for experiment in make()[:2]:
            journal.add(experiment, "ok")
        assert [Journal(tmp_path / "j.jsonl").finished(experiment) for experiment in make()] == [True, True, False]


@pytest.mark.parametrize(
    "axis",
    [[1, 1], [lambda: 1, lambda: 2], [{1: "a", "b": 2}, {(1, 2): 3}], [{1: 2}, {"1": 2}]],
    ids=["twice the same", "functions", "keys that JSON does not have", "keys that JSON takes for the same"],
)
def test_experiments_that_look_alike_are_told_apart(tmp_path: Path, axis: list[Any]) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(experiments(a=axis)[0], "ok")
    again = Journal(tmp_path / "j.jsonl")
    assert [again.finished(experiment) for experiment in experiments(a=axis)] == [True, False]


def test_what_a_filter_leaves_out_is_counted(tmp_path: Path) -> None:
    alike = registry({}, {}).registrations
    for registration in alike:
        registration.function.__name__ = "same"
    journal = Journal(tmp_path / "j.jsonl")
    first, second = make_plan(alike, "*").experiments
    journal.add(second, "ok")
    assert [journal.finished(one) for one in (first, second)] == [False, True]


def test_a_list_that_holds_itself_is_a_parameter_like_others(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    (one,) = experiments(a=[endless])
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(one, "ok")
    assert journal.finished(one)
