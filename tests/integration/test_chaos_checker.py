"""The chaos run's checker is worth something: it finds what a broken queue or agent does, and each kind of lie."""

from __future__ import annotations

import dataclasses
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roomful.agent.task import MIB
from roomful.bundle import pack
from roomful.queue import TaskSpec
from roomful.records import TaskRecord, Try
from tests.support.agents import PATIENCE, Room, Wire, a_room
from tests.support.history import History, Mark, Recorder, Size, problems
from tests.support.waiting import wait_until

SIZES = {"far": Size(2000, 1024), "near": Size(2000, 1024)}


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as made:
        yield made


def break_agents(room: Room, name: str, right: str, wrong: str) -> None:
    """Give the room's next agents a program in which one piece of text is another one."""
    with zipfile.ZipFile(room.bundle) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    path = f"roomful/agent/{name}"
    assert files[path].count(right.encode()) == 1
    files[path] = files[path].replace(right.encode(), wrong.encode())
    room.bundle = room.folder / "broken.pyz"
    room.bundle.write_bytes(pack(sorted(files.items())))


def submit(room: Room, recorder: Recorder, *tasks: TaskSpec) -> None:
    recorder.acknowledged.update(room.queue.submit(tasks).ids)


def marked(recorder: Recorder, what: str, host: str) -> Callable[[], bool]:
    """Whether a task on a host has said so."""
    return lambda: any((mark.what, mark.host) == (what, host) for mark in recorder.marks())


def a_host_dies(room: Room, recorder: Recorder) -> None:
    """Its tasks are the other host's to run."""
    room.start("far", cpus=2)
    submit(room, recorder, *(recorder.task(str(number), 10, 1) for number in range(4)))
    wait_until(marked(recorder, "start", "far"), PATIENCE)
    guard, worker = room.guard_pid("far"), room.worker_pid("far")
    os.kill(guard, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    room.command("stop", "--directory", str(room.folder / "agent-far"))
    wait_until(lambda: room.queue.expire(lease_seconds=0.1), PATIENCE)
    room.start("near", cpus=2)
    # Of a queue that knows nothing of the first two, these never come back.
    wait_until(lambda: room.queue.counts().done >= 2, PATIENCE)
    room.queue.wait(timeout=3)


def a_report_comes_late(room: Room, recorder: Recorder) -> None:
    """The link was cut until another host had begun the same task."""
    wire = Wire(room.folder / "wire.sock", room.valkey.socket)
    room.start("far", cpus=2, socket=wire.path)
    submit(room, recorder, recorder.task("slow", 4, 1))
    wait_until(marked(recorder, "start", "far"), PATIENCE)
    wire.cut()
    wait_until(marked(recorder, "end", "far"), PATIENCE)
    wait_until(lambda: room.queue.expire(lease_seconds=0.1), PATIENCE)
    room.start("near", cpus=2)
    wait_until(marked(recorder, "start", "near"), PATIENCE)
    os.kill(room.worker_pid("near"), signal.SIGSTOP)
    try:
        wire.mend()
        wait_until(lambda: room.queue.counts().late + room.queue.counts().done, PATIENCE, room.log)
    finally:
        os.kill(room.worker_pid("near"), signal.SIGCONT)
    assert room.queue.wait(timeout=PATIENCE)
    wire.close()


def many_tasks_at_once(room: Room, recorder: Recorder) -> None:
    """More than fit."""
    room.start("near", cpus=2)
    submit(room, recorder, *(recorder.task(str(number), 4, 0.75) for number in range(8)))
    assert room.queue.wait(timeout=PATIENCE)


def large_tasks_at_once(room: Room, recorder: Recorder) -> None:
    """Of these the CPUs carry twenty, the memory two."""
    room.start("near", cpus=2, memory_bytes=SIZES["near"].memory_mib * MIB)
    submit(room, recorder, *(recorder.task(str(number), 4, 0.1, 400) for number in range(6)))
    assert room.queue.wait(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("scenario", "name", "right", "wrong", "says"),
    [
        pytest.param(
            a_host_dies, "lua/claim.lua", "call('SADD', P .. 'held:' .. agent, unpack(claimed))", "",
            "did not get done: running", id="a claim without a record of who has it",
        ),
        pytest.param(
            a_report_comes_late, "lua/finish.lua", "held == attempt and holder == agent and not", "held and not",
            "attempt 2 was started, and the result is of attempt 1", id="a finish that ignores the attempt",
        ),
        pytest.param(
            many_tasks_at_once, "ledger.py", "self.used_cpu += needs.cpu_milli", "pass",
            "near has 2 CPUs; what ran on it at one time asked for", id="a ledger that forgets CPUs",
        ),
        pytest.param(
            large_tasks_at_once, "ledger.py", "self.used_memory += needs.memory_mib", "pass",
            "near has 1024 MiB; what ran on it at one time asked for", id="a ledger that forgets memory",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_what_is_broken_on_purpose_is_found(
    room: Room, scenario: Callable[[Room, Recorder], None], name: str, right: str, wrong: str, says: str, broken: bool
) -> None:
    if broken:
        break_agents(room, name, right, wrong)
    recorder = Recorder(room.folder)
    scenario(room, recorder)
    found = problems(recorder.history(room.queue, SIZES))
    if broken:
        assert any(says in problem for problem in found), found
    else:
        assert found == []


# -- every kind of lie, in a history made by hand -----------------------------------------------------------------


def good_history() -> History:
    """One task that was tried twice, and one that was not."""
    spec = TaskSpec(command="x")
    lost = Try(attempt=1, host="far", reason="lost", detail="", ended_ms=1)
    twice = TaskRecord(id=1, state="done", spec=spec, attempt=2, host="near", tries=(lost,))
    once = TaskRecord(id=2, state="done", spec=spec, attempt=1, host="near")
    marks = [
        Mark("far", "start", 1, 1, Size(2000, 600), 1.0),
        Mark("far", "alive", 1, 1, Size(2000, 600), 1.5),
        Mark("near", "start", 1, 2, Size(2000, 600), 2.0),
        Mark("near", "end", 1, 2, Size(2000, 600), 2.5),
        Mark("near", "start", 2, 1, Size(1000, 600), 2.5),
        Mark("near", "end", 2, 1, Size(1000, 600), 2.5),
    ]
    records = {1: (twice, b"1 2 near\n"), 2: (once, b"2 1 near\n")}
    return History({1, 2}, marks, records, [(1, 2), (2, 1)], SIZES)


def with_record(history: History, output: bytes | None = None, **changes: object) -> History:
    """Change the record of task 1."""
    record, said = history.records[1]
    changed = dataclasses.replace(record, **changes)  # type: ignore[arg-type]  # fields of its own
    return dataclasses.replace(history, records={**history.records, 1: (changed, said if output is None else output)})


def with_marks(history: History, *more: Mark, without: str = "") -> History:
    """Add marks, and leave out those of one kind."""
    return dataclasses.replace(history, marks=[*(mark for mark in history.marks if mark.what != without), *more])


LIES: list[tuple[str, Callable[[History], History], str]] = [
    ("lost", lambda good: dataclasses.replace(good, acknowledged={1, 2, 3}), "task 3 was acknowledged and is lost"),
    ("never ran", lambda good: dataclasses.replace(good, marks=[]), "attempt 2 was accepted and never ran"),
    ("failed", lambda good: with_record(good, state="failed", reason="lost"), "task 1 did not get done: failed lost"),
    (
        "accepted twice",
        lambda good: dataclasses.replace(good, accepted=[(1, 2), (2, 1), (1, 2)]),
        "2 accepted results",
    ),
    ("never logged", lambda good: dataclasses.replace(good, accepted=[(1, 2)]), "task 2 has 0 accepted results"),
    ("logged otherwise", lambda good: dataclasses.replace(good, accepted=[(1, 1), (2, 1)]), "attempt 1 was logged"),
    ("no end", lambda good: with_marks(good, without="end"), "and did not end there"),
    ("not there", lambda good: with_record(good, host="far"), "accepted from far and did not end there"),
    (
        "old attempt",
        lambda good: with_marks(good, Mark("far", "start", 1, 3, Size(1, 1), 9.0)),
        "attempt 3 was started, and",
    ),
    (
        "same attempt twice",
        lambda good: with_marks(good, Mark("far", "start", 1, 2, Size(1, 1), 9.0)),
        "started 2 times",
    ),
    ("does not rise", lambda good: with_record(good, tries=(Try(2, "far", "lost", "", 1),)), "attempts do not rise"),
    ("output of another", lambda good: with_record(good, output=b"1 1 far\n"), "is not of the accepted attempt 2"),
    ("left", lambda good: dataclasses.replace(good, left=["sleep 9"]), "still there: sleep 9"),
]


def test_a_good_history_has_no_problem() -> None:
    assert problems(good_history()) == []


@pytest.mark.parametrize(("lie", "says"), [pytest.param(lie, says, id=name) for name, lie, says in LIES])
def test_every_lie_is_found(lie: Callable[[History], History], says: str) -> None:
    found = problems(lie(good_history()))
    assert any(says in problem for problem in found), found


def test_too_much_is_found_whoever_came_first() -> None:
    early = Mark("near", "start", 3, 1, Size(1000, 600), 2.2)
    record = TaskRecord(id=3, state="done", spec=TaskSpec(command="x"), attempt=1, host="near")
    good = good_history()
    records = {**good.records, 3: (record, b"3 1 near\n")}
    marks = [*good.marks, early, dataclasses.replace(early, what="end", at=3.0)]
    history = dataclasses.replace(good, marks=marks, records=records, accepted=[*good.accepted, (3, 1)])
    assert problems(history) == [
        "near has 2 CPUs; what ran on it at one time asked for 3",
        "near has 1024 MiB; what ran on it at one time asked for 1200",
    ]


def test_marks_are_of_this_run_only(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    assert list(recorder.marks()) == []
    (tmp_path / "marks-a-b").write_text("start 1 2 500 64 3.25\n")
    assert list(recorder.marks()) == [Mark("a-b", "start", 1, 2, Size(500, 64), 3.25)]
