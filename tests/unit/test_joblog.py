"""The job log: GNU parallel's columns, one line a task whatever its command holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roomful import joblog
from roomful.agent.task import TaskSpec
from roomful.records import TaskRecord, Try

DONE = TaskRecord(
    7, "done", TaskSpec("echo a"), attempt=1, host="lab01", claimed_ms=1_000_000, started_ms=1_700_000_000_123,
    ended_ms=1_700_000_002_000, seconds=1.877, exit_code=0,
)  # fmt: skip


def test_a_line_has_the_columns_of_gnu_parallel() -> None:
    assert joblog.HEADER == b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    assert joblog.line(DONE, 42) == b"7\tlab01\t1700000000.123\t1.877\t0\t42\t0\t0\techo a\n"


@pytest.mark.parametrize(
    ("changes", "exitval", "signal"),
    [
        ({"exit_code": 3, "state": "failed"}, b"3", b"0"),
        ({"exit_code": None, "signal": 9, "state": "failed"}, b"-1", b"9"),
        ({"exit_code": None, "state": "failed", "reason": "lost"}, b"-1", b"0"),
    ],
)
def test_exit_codes_and_signals(changes: dict[str, object], exitval: bytes, signal: bytes) -> None:
    fields = joblog.line(replace(DONE, **changes), 0).split(b"\t")  # type: ignore[arg-type]
    assert fields[6:8] == [exitval, signal]


def test_whatever_a_command_holds_it_stays_one_line_of_nine_fields() -> None:
    command = "a\tb\nc\rd\x00e\x1bf\x85g\u2028h\\n \udcff"
    line = joblog.line(replace(DONE, spec=TaskSpec(command)), 0)
    assert line.count(b"\n") == 1
    assert len(line.split(b"\t")) == 9
    assert line.endswith(b"\ta\\tb\\nc\\rd\\x00e\\x1bf\\x85g\\u2028h\\n \xff\n")
    assert len(line.decode("utf-8", "surrogateescape").splitlines()) == 1


def test_only_what_had_begun_has_run() -> None:
    assert joblog.has_run(DONE)
    assert not joblog.has_run(TaskRecord(1, "cancelled", TaskSpec("x"), ended_ms=5))
    assert not joblog.has_run(TaskRecord(1, "running", TaskSpec("x"), claimed_ms=5))


def test_earlier_attempts_are_lines_of_their_own() -> None:
    tries = (Try(1, "lab02", "exit 3", "", 1500), Try(2, "lab03", "lost", "no\nheartbeat", 2500))
    assert list(joblog.attempt_lines(replace(DONE, tries=tries))) == [
        b"7\t1\tlab02\t1.500\texit 3\t\n",
        b"7\t2\tlab03\t2.500\tlost\tno\\nheartbeat\n",
    ]


def test_lines_about_other_tasks_are_not_kept() -> None:
    old = [joblog.HEADER, b"1\ta\n", b"2\tb\n", b"junk\n", b"\n", b"12\tc\n"]
    assert joblog.kept_lines(old, [2, 12, 99]) == [b"2\tb\n", b"12\tc\n"]
