"""The lock of a whole machine: agents honour it, tell whose it is, and leave none behind, whatever ends them."""

from __future__ import annotations

import fcntl
import getpass
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.agent.host_lock import HostLock, holder
from tests.support.agents import PATIENCE, Room, a_room
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as room:
        yield room


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.lock"


def is_free(path: Path) -> bool:
    """What ``flock -n`` of another group's script finds."""
    return subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 0


def state(room: Room) -> str:
    return f"{room.queue.counts()} {room.queue.clients()}"


def test_no_task_starts_while_somebody_has_the_machine(room: Room, path: Path) -> None:
    with subprocess.Popen(["flock", str(path), "sleep", "600"], start_new_session=True) as other:
        try:
            wait_until(lambda: path.exists() and not is_free(path), PATIENCE)
            room.start(host_lock=str(path), slots=1)
            (task,) = room.submit("true")
            said = wait_until(lambda: room.client("one").busy_with, PATIENCE, lambda: state(room))
            assert said.startswith(f"locked by {getpass.getuser()} (flock) since 20")
            assert room.queue.counts().todo == 1
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    assert room.queue.wait([task], timeout=PATIENCE), state(room)
    record = room.queue.task(task)
    assert record is not None
    assert (record.state, record.tries) == ("done", ()), "going back does not count as a failure"
    wait_until(lambda: not room.client("one").busy_with, PATIENCE, lambda: state(room))


def test_the_machine_is_taken_for_as_long_as_a_task_runs(room: Room, path: Path) -> None:
    room.start(host_lock=str(path), slots=1)
    ended = room.folder / "end"
    (task,) = room.submit(f"while [ ! -e {ended} ]; do sleep 0.05; done")
    wait_until(lambda: room.queue.counts().running, PATIENCE, lambda: state(room))
    assert not is_free(path)
    assert holder(str(path)).startswith(f"locked by {getpass.getuser()} (roomful) since 20")
    assert path.read_text().split()[:2] == [getpass.getuser(), str(room.worker_pid())]
    ended.touch()
    assert room.queue.wait([task], timeout=PATIENCE), state(room)
    wait_until(lambda: is_free(path), PATIENCE, lambda: holder(str(path)))
    assert path.read_text() == ""


def test_a_killed_agent_leaves_no_lock(room: Room, path: Path) -> None:
    room.start(host_lock=str(path), slots=1)
    started = room.folder / "started"
    room.submit(f"touch {started}; exec sleep 600", retries=0)
    wait_until(started.exists, PATIENCE, lambda: state(room))
    # Not one before the other: each would notice, and end the task.
    guard, worker = room.guard_pid(), room.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    # Not before the task is gone: it would disturb what others measure.
    assert not is_free(path)
    pids = holders(path)
    assert pids, "the task holds the lock too"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_free(path), PATIENCE, lambda: holder(str(path)))
    assert path.read_text(), "it had no time to remove its words"
    with subprocess.Popen(["flock", str(path), "sleep", "600"], start_new_session=True) as other:
        try:
            said = wait_until(lambda: holder(str(path)), PATIENCE)
            assert "(flock)" in said, "what a process says that is gone does not count"
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def holders(path: Path) -> list[int]:
    """The processes that have the file open."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if any(os.path.samefile(fd, path) for fd in (folder / "fd").iterdir() if fd.exists()):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def test_what_is_no_lock_is_not_written_to(tmp_path: Path, path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    assert "cannot be locked" in HostLock(str(path)).take()
    path.unlink()
    os.link(victim, path)
    assert "not a plain file of its own" in HostLock(str(path)).take()
    assert victim.read_text() == "mine"
    os.mkfifo(tmp_path / "fifo")
    assert "cannot be locked" in HostLock(str(tmp_path / "fifo")).take()
    assert "cannot be locked" in HostLock(str(tmp_path / "no" / "such")).take()
    assert holder(str(tmp_path / "nothing")) == ""


def test_everybody_may_take_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        lock = HostLock(str(path))
        assert lock.take() == ""
        lock.release()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666


def test_words_in_the_file_are_shown_without_what_a_terminal_would_obey(path: Path) -> None:
    path.write_text(f"\x1b[2Jme {os.getpid()} 9999999999 \x07prog\n")
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said = HostLock(str(path)).take()
    assert said.startswith("locked by ?[2Jme (?prog) since ")
