"""What `inv status` and `inv tasks` show."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from roomful import monitor
from roomful.agent.task import TaskSpec
from roomful.monitor import Status
from roomful.records import ClientRecord, Counts, TaskRecord, Try

GIB = 2**30
CLIENT = ClientRecord(
    "lab01#3", "lab01", "live", slots=4, cpus=4.0, memory_bytes=8 * GIB, load=1.5, memory_free_bytes=6 * GIB,
    running=3, waiting=1, done=10, failed=2, seconds_since_heartbeat=0.44,
    busy_with="low memory", about={"python": "3.11"},
)  # fmt: skip


def counts(**changes: float) -> Counts:
    values = {"todo": 0, "running": 0, "done": 0, "failed": 0, "cancelled": 0, "late": 0, "rate": 0.0, **changes}
    return Counts(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (counts(), ["0 tasks: 0 todo, 0 running, 0 done, 0 failed"]),
        (counts(done=1, cancelled=1), ["2 tasks: 0 todo, 0 running, 1 done, 0 failed, 1 cancelled"]),
        (counts(todo=1), ["1 task: 1 todo, 0 running, 0 done, 0 failed", "none ended in the last minute"]),
        (
            counts(todo=80, running=20, done=5, rate=2.0),
            ["105 tasks: 80 todo, 20 running, 5 done, 0 failed", "2.0/s in the last minute, about 50 s left"],
        ),
    ],
)
def test_the_summary(now: Counts, lines: list[str]) -> None:
    assert monitor.summary_lines(Status(now, ())) == lines


@pytest.mark.parametrize(("state", "there"), [("live", True), ("silent", True), ("lost", False), ("stopped", False)])
def test_tasks_that_nobody_is_there_to_run(state: str, there: bool) -> None:
    client = replace(CLIENT, state=state)
    last = monitor.summary_lines(Status(counts(todo=5, rate=1.0), (client,)))[-1]
    assert (
        last.endswith("about 5.0 s left") if there else last.startswith("no client is there to run them; start them")
    )


def test_no_time_is_left_when_nothing_is() -> None:
    assert Status(counts(done=5, rate=2.0), ()).eta_seconds is None
    assert Status(counts(todo=5), ()).eta_seconds is None
    assert Status(counts(todo=5, running=1, rate=3.0), ()).eta_seconds == 2.0


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1234.56, "1234.6/s"), (1.0, "1.0/s"), (0.5, "30.0/min"), (1 / 60, "1.0/min"), (0.01, "36.0/h")],
)
def test_rates(rate: float, text: str) -> None:
    assert monitor.rate_text(rate) == text


def test_a_row_for_each_client() -> None:
    lost = ClientRecord("lab02#1", "lab02", "lost", 4, 4.0, GIB, 9.9, GIB, 1, 0, 7, 0, 3700.0)
    lines = monitor.client_table(Status(counts(), (CLIENT, lost))).splitlines()
    assert [re.split(r" {2,}", line) for line in lines if "---" not in line] == [
        ["host", "state", "slots", "load", "memory free", "running", "done", "failed", "heartbeat", "note"],
        ["lab01", "live", "4", "1.50", "6.0 of 8.0 GiB", "3", "10", "2", "0.4 s ago", "low memory"],
        ["lab02", "lost", "7", "0", "1 h 1 min ago"],
    ]


def test_the_table_of_clients_fits_a_narrow_terminal() -> None:
    many = replace(CLIENT, busy_with="", host="node0123", state="draining", memory_bytes=512 * GIB, done=99_999)
    lines = monitor.client_table(Status(counts(), (many,))).splitlines()
    assert "note" not in lines[0]
    assert max(map(len, lines)) <= 86
    assert max(map(len, monitor.client_table(Status(counts(), (replace(CLIENT, busy_with=""),))).splitlines())) <= 80


@pytest.mark.parametrize(
    ("total", "free", "text"),
    [(8 * GIB, 6 * GIB, "6.0 of 8.0 GiB"), (GIB, 22 * GIB, "1.0 of 1.0 GiB"), (0, 0, "0.0 of 0 B")],
)
def test_free_memory_has_the_unit_of_the_whole(total: int, free: int, text: str) -> None:
    assert monitor.memory_text(replace(CLIENT, memory_bytes=total, memory_free_bytes=free)) == text


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(Status(counts(todo=4, rate=2.0), (CLIENT,)).document()))
    assert document["todo"] == document["total"] == 4
    assert document["eta_seconds"] == 2.0
    assert document["clients"][0]["host"] == "lab01"
    assert document["clients"][0]["about"] == {"python": "3.11"}


def test_a_task_as_a_row_and_as_a_document() -> None:
    spec = TaskSpec("x" * 100, name="long", env={"A": "b"}, outputs=("out",))
    record = TaskRecord(
        5, "failed", spec, attempt=2, host="lab01", claimed_ms=1, ended_ms=2, seconds=1.234, reason="exit 3",
        exit_code=3, tries=(Try(1, "lab02", "signal 9", "", 1),),
    )  # fmt: skip
    row = monitor.task_row(record)
    assert row[:-1] == ["5", "failed", "lab01", "2", "1.23", "exit 3"]
    assert len(row[-1]) == monitor.COMMAND_WIDTH
    assert row[-1].startswith("[long] xxx")
    assert row[-1].endswith("...")
    document = json.loads(json.dumps(monitor.task_document(record)))
    assert document["command"] == "x" * 100
    assert document["env"] == {"A": "b"}
    assert document["outputs"] == ["out"]
    assert "timeout" not in document
    assert document["tries"][0]["reason"] == "signal 9"


def test_a_task_that_has_not_ended_has_no_result() -> None:
    running = TaskRecord(5, "running", TaskSpec("x"), attempt=1, host="lab01", claimed_ms=5)
    assert monitor.task_row(running) == ["5", "running", "lab01", "1", "", "", "x"]
    assert monitor.task_row(TaskRecord(6, "todo", TaskSpec("x"))) == ["6", "todo", "", "", "", "", "x"]
