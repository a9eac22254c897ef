"""Outcomes as people and programs read them."""

from __future__ import annotations

import json

import pytest

from roomful.errors import InputError
from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes, allowed_failures
from roomful.report import duration, host_spec, outcomes_json, outcomes_table, recap, size


@pytest.fixture
def outcomes() -> Outcomes[int]:
    return Outcomes(
        [
            Outcome(Host("a"), "ok", value=7, seconds=0.5),
            Outcome(Host("b"), "unreachable", "timeout", "no answer", seconds=5),
            Outcome(Host("c"), "failed", "exit 3", "bad \x1b[31m thing", seconds=1),
        ]
    )


def test_table(outcomes: Outcomes[int]) -> None:
    text = outcomes_table(outcomes, lambda outcome: {"found": outcome.value or ""})
    head, _, first, second, third = text.splitlines()
    assert head.split() == ["host", "status", "reason", "found", "seconds", "detail"]
    assert first.split() == ["a", "ok", "7", "0.50"]
    assert second.split() == ["b", "unreachable", "timeout", "5.00", "no", "answer"]
    assert "\x1b" not in third


def test_a_table_without_failures_has_no_columns_for_them() -> None:
    assert outcomes_table(Outcomes([Outcome(Host("a"), "ok")])).splitlines()[0].split() == [
        "host",
        "status",
        "seconds",
    ]


def test_json(outcomes: Outcomes[int]) -> None:
    document = json.loads(outcomes_json(outcomes, lambda outcome: {"found": outcome.value}, {"list": "n7"}))
    assert (document["ok"], document["failed"], document["unreachable"], document["list"]) == (1, 1, 1, "n7")
    assert document["hosts"][0] == {
        "host": "a",
        "status": "ok",
        "reason": None,
        "detail": "",
        "seconds": 0.5,
        "found": 7,
    }


def test_recap(outcomes: Outcomes[int]) -> None:
    assert recap(outcomes, "inv x --hosts=b,c") == [
        "3 hosts: 1 ok, 1 failed, 1 unreachable",
        "reasons: 1 timeout, 1 exit 3",
        "again on these: inv x --hosts=b,c",
    ]


@pytest.mark.parametrize(
    ("max_failed", "total", "allowed"), [("0", 5, 0), ("2", 5, 2), ("10%", 25, 2), ("100%", 3, 3), ("0%", 9, 0)]
)
def test_tolerance(max_failed: str, total: int, allowed: int) -> None:
    assert allowed_failures(max_failed, total) == allowed


@pytest.mark.parametrize("text", ["", "-1", "x", "101%", "1.5", "%"])
def test_bad_tolerance(text: str) -> None:
    with pytest.raises(InputError, match="--max-failed"):
        allowed_failures(text, 3)


def test_host_specs_fold_when_long() -> None:
    hosts = [Host(f"n{i:02}") for i in range(1, 9)]
    assert host_spec(hosts[:2]) == "n01,n02"
    assert host_spec([*hosts, Host("x", "me", 22)]) == "n[01-08],me@x:22"


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1536, 3 << 20, 5 << 40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 MiB", "5.0 TiB"]
    assert [duration(n) for n in (0.25, 45, 200, 18120)] == ["0.2 s", "45 s", "3 min 20 s", "5 h 2 min"]
