"""Before anything is submitted: does a task fit anywhere, and what do the flags say?"""

from __future__ import annotations

import pytest

from roomful.errors import InputError, TaskFileError
from roomful.records import ClientRecord
from roomful.submission import check_needs, task_defaults
from roomful.task_lines import TaskDefaults
from roomful.taskfile import Need

GIB = 2**30


def client(host: str, cpus: float, gib: float, state: str = "live") -> ClientRecord:
    return ClientRecord(f"{host}#1", host, state, 1, cpus, int(gib * GIB), 0.0, 0, 0, 0, 0, 0, 0.0)


SMALL, WIDE, DEEP = client("small", 2, 4), client("wide", 16, 8), client("deep", 4, 64)


@pytest.mark.parametrize(
    ("need", "clients"),
    [
        (Need(1, 16_000, 8 * 1024), [SMALL, WIDE]),
        (Need(1, 500, 0), [SMALL]),
        (Need(1, 4000, 64 * 1024), [SMALL, WIDE, DEEP]),
        (Need(1, 16_000, 0), [client("wide", 16, 8, "silent")]),
        (Need(1, 16_000, 0), [client("wide", 16, 8, "draining")]),
    ],
)
def test_what_fits_somewhere_is_accepted(need: Need, clients: list[ClientRecord]) -> None:
    assert check_needs([need], clients, "t") == []


@pytest.mark.parametrize(
    ("need", "clients", "says"),
    [
        (
            Need(7, 17_000, 0),
            [SMALL, WIDE, DEEP],
            "t:7: needs 17 CPUs: the largest host, wide, has 16 CPUs and 8.0 GiB",
        ),
        (
            Need(7, 1000, 65 * 1024),
            [SMALL, WIDE, DEEP],
            "t:7: needs 1 CPU and 65.0 GiB: the largest host, deep, has 4 CPUs",
        ),
        # Each alone would fit, on different hosts.
        (
            Need(7, 8000, 32 * 1024),
            [SMALL, WIDE, DEEP],
            "needs 8 CPUs and 32.0 GiB: the largest host, wide, has 16 CPUs",
        ),
        (Need(7, 4000, 0), [SMALL, client("gone", 64, 64, "lost")], "the largest host, small, has 2 CPUs"),
        (Need(7, 1000, 4097), [SMALL], "needs 1 CPU and 4.0 GiB: the largest host, small, has 2 CPUs and 4.0 GiB"),
    ],
)
def test_what_fits_nowhere_is_refused(need: Need, clients: list[ClientRecord], says: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        check_needs([Need(1, 1000, 0), need], clients, "t")
    assert says in str(caught.value)
    assert str(caught.value).endswith("; ask for less, or give --allow-waiting to let it wait for a larger host")


def test_the_first_line_that_fits_nowhere_is_named() -> None:
    with pytest.raises(TaskFileError, match="t:3: needs 99 CPUs"):
        check_needs([Need(8, 98_000, 0), Need(3, 99_000, 0)], [SMALL], "t")


def test_waiting_tasks_and_absent_clients_are_warned_about() -> None:
    [warning] = check_needs([Need(3, 99_000, 0)], [SMALL], "t", allow_waiting=True)
    assert warning.startswith("t:3: needs 99 CPUs: the largest host, small, has 2 CPUs")
    assert check_needs([Need(3, 99_000, 0)], [client("a", 1, 1, "stopped")], "t") == [
        "no client is there yet: the tasks wait for inv start-clients"
    ]


def test_flags_become_defaults() -> None:
    assert task_defaults() == TaskDefaults()
    assert task_defaults(priority="-2", memory="2GiB", cpus="0.5", timeout="5m", retries="3") == TaskDefaults(
        priority=-2, memory_bytes=2 * GIB, cpus=0.5, timeout=300.0, retries=3
    )


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("memory", "4", "--memory: size '4' has no unit; write 4GiB or 4MB"),
        ("cpus", "many", "--cpus: bad number of CPUs 'many'; write 2 or 0.5"),
        ("cpus", "9999", "--cpus: 9999.0 CPUs is not within 0 and 2048"),
        ("timeout", "0s", "--timeout: timeout 0.0 is not a number of seconds above 0"),
        ("timeout", "5", "--timeout: duration '5' has no unit; write 5s or 5m"),
        ("retries", "-1", "--retries: '-1' is not a whole number of 0 or more"),
        ("priority", "1.5", "--priority: '1.5' is not a whole number"),
    ],
)
def test_bad_flags_are_named(flag: str, value: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        task_defaults(**{flag: value})
    assert str(caught.value) == says
