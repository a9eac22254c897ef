"""The results folder: exact, complete or absent, and only what is new."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import atomic_file, results
from roomful.errors import RoomfulError
from roomful.queue import Queue, TaskSpec
from roomful.results import save, task_folder
from roomful.settings import Settings
from tests.support.agents import Room, Scripted, a_room

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    """One server for all tests here."""
    with a_room() as room:
        yield room


@pytest.fixture
def queue(room: Room) -> Queue:
    """An empty queue."""
    room.valkey.client().flushall()
    return room.queue


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "results"


def add(queue: Queue, *commands: str, **fields: object) -> list[int]:
    return queue.submit([TaskSpec(command, **fields) for command in commands]).ids  # type: ignore[arg-type]


def run(queue: Queue, agent: Scripted, stdout: bytes = b"", exit_code: int = 0) -> int:
    """Have the agent run the next task; returns its id."""
    [(task_id, attempt)] = agent.claim()
    assert agent.finish(task_id, attempt, exit_code, stdout) in ("ok", "retry")
    return task_id


def joblog(into: Path) -> list[list[bytes]]:
    return [line.split(b"\t") for line in (into / "joblog.tsv").read_bytes().splitlines()]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every output below a folder."""
    files = [path for path in (folder / "tasks").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_everything_that_ended_is_saved_exactly(queue: Queue, into: Path, settings: Settings) -> None:
    add(queue, "one", "two\nlines\t\udcff", "three", "four", "five")
    agent = Scripted(queue, "lab01")
    data = bytes(range(256)) * 100
    run(queue, agent, data)
    run(queue, agent, b"", exit_code=3)
    queue.cancel([4])
    agent.claim()
    saved = save(queue, into, settings)
    assert (saved.done, saved.failed, saved.cancelled, saved.new, saved.kept, saved.complete) == (1, 1, 1, 2, 0, True)
    assert (into / "tasks" / "0-999" / "1" / "stdout").read_bytes() == data
    assert (into / "tasks" / "0-999" / "1" / "stderr").read_bytes() == b""
    assert sorted(path.name for path in (into / "tasks" / "0-999").iterdir()) == ["1", "2"]
    header, one, two = joblog(into)
    assert header == [
        b"Seq",
        b"Host",
        b"Starttime",
        b"JobRuntime",
        b"Send",
        b"Receive",
        b"Exitval",
        b"Signal",
        b"Command",
    ]
    assert (one[0], one[1], *one[3:]) == (b"1", b"lab01", b"1.000", b"0", b"25600", b"0", b"0", b"one")
    assert (two[0], two[6], two[8]) == (b"2", b"3", b"two\\nlines\\t\xff")
    assert not (into / "attempts.tsv").exists()


def test_a_second_run_writes_only_what_is_new(queue: Queue, into: Path, settings: Settings) -> None:
    add(queue, "one", "two")
    agent = Scripted(queue, "lab01")
    run(queue, agent, b"1")
    save(queue, into, settings)
    before = stamps(into)
    run(queue, agent, b"22")
    saved = save(queue, into, settings)
    after = stamps(into)
    assert (saved.new, saved.kept) == (1, 1)
    assert {name: stamp for name, stamp in after.items() if name in before} == before
    assert [fields[5] for fields in joblog(into)[1:]] == [b"1", b"2"]
    assert save(queue, into, settings).new == 0
    assert stamps(into) == after


def test_a_task_that_was_tried_again_has_its_last_output_and_a_line_an_attempt(
    queue: Queue, into: Path, settings: Settings
) -> None:
    add(queue, "flaky")
    agent = Scripted(queue, "lab01")
    run(queue, agent, b"first try", exit_code=1)
    save(queue, into, settings)
    path = task_folder(into, 1) / "stdout"
    assert path.read_bytes() == b"first try"
    queue.retry([1])
    save(queue, into, settings)
    assert [len(joblog(into)), path.read_bytes()] == [1, b"first try"]
    other = Scripted(queue, "lab02")
    run(queue, other, b"second")
    saved = save(queue, into, settings)
    assert (saved.done, saved.failed, saved.new, saved.attempts) == (1, 0, 1, 1)
    assert path.read_bytes() == b"second"
    assert [fields[1] for fields in joblog(into)[1:]] == [b"lab02"]
    [_, attempt] = (into / "attempts.tsv").read_bytes().splitlines()
    assert attempt.split(b"\t")[:3] == [b"1", b"1", b"lab01"]
    assert attempt.split(b"\t")[4] == b"exit 1"


def test_the_log_keeps_tasks_that_the_queue_forgot_and_drops_another_queues(
    room: Room, queue: Queue, into: Path, settings: Settings
) -> None:
    add(queue, "one", "two", "three")
    agent = Scripted(queue, "lab01")
    run(queue, agent, b"1")
    run(queue, agent, b"2")
    save(queue, into, settings)
    queue.forget()
    run(queue, agent, b"3")
    saved = save(queue, into, settings)
    assert saved.done == 1
    assert [fields[8] for fields in joblog(into)[1:]] == [b"one", b"two", b"three"]
    room.valkey.client().flushall()
    add(queue, "other")
    run(queue, Scripted(queue, "lab01"), b"9")
    save(queue, into, settings)
    assert [fields[8] for fields in joblog(into)[1:]] == [b"other"]
    assert (task_folder(into, 1) / "stdout").read_bytes() == b"9"


def test_what_a_full_disk_interrupts_is_absent_and_resumed(
    queue: Queue, into: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(queue, *(f"task {number}" for number in range(20)))
    agent = Scripted(queue, "lab01")
    for number in range(20):
        run(queue, agent, b"x" * (number + 1))
    written = []
    real = atomic_file.AtomicFile.write

    def until_full(file: atomic_file.AtomicFile, data: bytes) -> None:
        if os.path.basename(file.path) == "stdout":
            written.append(data)
            if len(written) == 8:
                real(file, data[:1])
                raise OSError(errno.ENOSPC, "No space left on device", str(file.path))
        real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_file.AtomicFile, "write", until_full)
        with pytest.raises(RoomfulError, match="No space left on device"):
            save(queue, into, settings)
    assert not (into / "joblog.tsv").exists()
    files = [path for path in into.rglob("*") if path.is_file()]
    assert sorted(path.stat().st_size for path in files) == [1, 2, 3, 4, 5, 6, 7]
    saved = save(queue, into, settings)
    assert (saved.done, saved.complete, len(joblog(into))) == (20, True, 21)
    sizes = {(task_folder(into, number) / "stdout").stat().st_size for number in range(1, 21)}
    assert sizes == set(range(1, 21))


def test_an_output_that_the_client_could_not_keep_is_named(queue: Queue, into: Path, settings: Settings) -> None:
    [task_id] = add(queue, "much")
    run(queue, Scripted(queue, "lab01"), b"x")
    # What the agent reports when its disk was full: the size, no path, and the two ends.
    queue.scripts._client.hset(queue.keys.stdout, str(task_id), b"100000 \nhead+tail")
    saved = save(queue, into, settings)
    assert not saved.complete
    assert saved.document()["missing"] == [
        {"id": task_id, "stream": "stdout", "why": "lab01 could not keep all 100,000 bytes of it"}
    ]
    assert not (task_folder(into, task_id) / "stdout").exists()
    assert (task_folder(into, task_id) / "stderr").exists()
    assert joblog(into)[1][5] == b"100000"


def test_two_runs_into_one_folder_do_not_mix(queue: Queue, into: Path, settings: Settings) -> None:
    save(queue, into, settings)
    fd = os.open(into / "tasks", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(RoomfulError, match="another collect is writing there; wait for its end"):
            save(queue, into, settings)
    finally:
        os.close(fd)
    save(queue, into, settings)


def test_a_folder_that_cannot_be_made_is_named(queue: Queue, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RoomfulError, match="Not a directory"):
        save(queue, tmp_path / "file" / "results", settings)


def test_a_thousand_tasks_share_a_folder(tmp_path: Path) -> None:
    names = {
        task_id: str(task_folder(tmp_path, task_id).relative_to(tmp_path)) for task_id in (1, 999, 1000, 123_456)
    }
    assert names == {
        1: "tasks/0-999/1",
        999: "tasks/0-999/999",
        1000: "tasks/1000-1999/1000",
        123_456: "tasks/123000-123999/123456",
    }


def test_pages_are_gone_through_to_the_end(
    queue: Queue, into: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_PAGE", 3)
    add(queue, *(f"task {number}" for number in range(10)))
    agent = Scripted(queue, "lab01")
    for number in range(10):
        run(queue, agent, b"%d" % number)
    heard: list[int] = []
    assert save(queue, into, settings, progress=heard.append).new == 10
    assert heard == [3, 6, 9, 10]
    assert [(task_folder(into, n + 1) / "stdout").read_bytes() for n in range(10)] == [b"%d" % n for n in range(10)]
