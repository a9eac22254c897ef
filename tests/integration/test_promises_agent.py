"""The queue's promises, each with its fault: wrong clocks, long silences, frozen servers, full disks, endless output.

Other faults have their tests beside what they break: test_agent_faults.py (kills, cuts, fencing),
test_server_killed.py and test_server_disk.py (under the queue), test_client_faults.py (hosts of their own),
test_chaos.py (all).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.agents import PATIENCE, Room, Wire, a_room, alive, pid_in
from tests.support.waiting import wait_until

DAY_SECONDS = 86400
MIB = 1024 * 1024

#: What Python runs first of all: the wall clock is a day off.
WRONG_CLOCK = """\
import time
_time, _ns, _get, _get_ns = time.time, time.time_ns, time.clock_gettime, time.clock_gettime_ns
time.time = lambda: _time() + {shift}
time.time_ns = lambda: _ns() + {shift} * 10**9
time.clock_gettime = lambda clock: _get(clock) + {shift} * (clock == time.CLOCK_REALTIME)
time.clock_gettime_ns = lambda clock: _get_ns(clock) + {shift} * 10**9 * (clock == time.CLOCK_REALTIME)
"""


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as made:
        yield made


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    """A file system of this size at ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("shift", [DAY_SECONDS, -DAY_SECONDS], ids=["fast", "slow"])
def test_a_clock_that_is_a_day_off_decides_nothing(room: Room, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    (room.folder / "sitecustomize.py").write_text(WRONG_CLOCK.format(shift=shift))
    before = time.time()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(room.folder))
        room.start("wrong")
    room.start("right")
    # Its own log shows that the agent believes the wrong clock.
    said = re.search(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ INFO registered", room.log("wrong"), re.MULTILINE)
    assert said, room.log("wrong")
    assert abs(datetime.fromisoformat(said[1]).timestamp() - before - shift) < 600
    room.queue.drain(["right"])
    done, late = room.run("sleep 0.3; echo $ROOMFUL_HOST", "sleep 60 # too long", timeout=1.0)
    assert (done.state, done.host, late.state, late.reason) == ("done", "wrong", "failed", "timeout")
    for record in (done, late):
        assert before * 1000 - 2000 < record.claimed_ms <= record.ended_ms < time.time() * 1000 + 2000
    assert 0.3 <= done.seconds < 1.0 <= late.seconds < PATIENCE
    # Neither does it look dead, nor does it outlive the others.
    room.queue.drain(["right"], resume=True)
    looks = iter(range(20))
    while next(looks, None) is not None:
        assert room.queue.expire(lease_seconds=5.0, silence_seconds=5.0, alive_hosts=["wrong", "right"]) == []
        time.sleep(0.05)
    assert all(client.seconds_since_heartbeat < 5 for client in room.queue.clients())
    os.kill(room.guard_pid("wrong"), signal.SIGSTOP)
    os.kill(room.worker_pid("wrong"), signal.SIGSTOP)
    try:
        lost = wait_until(lambda: room.queue.expire(lease_seconds=3.0), PATIENCE)
        assert [entry.agent for entry in lost] == ["wrong#1"]
    finally:
        os.kill(room.worker_pid("wrong"), signal.SIGCONT)
        os.kill(room.guard_pid("wrong"), signal.SIGCONT)


def test_a_client_that_is_cut_off_for_too_long_ends_its_tasks_and_nothing_counts_against_them(room: Room) -> None:
    room.queue.configure({"cut_off_grace_seconds": 1.5, "heartbeat_seconds": 0.3})
    wire = Wire(room.folder / "wire.sock", room.valkey.socket)
    room.start("far", socket=wire.path)
    marker = room.folder / "pid"
    (task_id,) = room.submit(f"setsid sleep 600 & echo $! > {marker}; wait", retries=0)
    pid = pid_in(marker)
    wait_until(lambda: "cut_off_grace_seconds" in room.queue.settings(), PATIENCE)
    wire.cut()
    cut = time.monotonic()
    wait_until(lambda: not alive(pid), PATIENCE, room.log)
    assert time.monotonic() - cut > 1.0, "not before the grace is over"
    marker.unlink()
    wire.mend()
    again = pid_in(marker)
    record = room.queue.task(task_id)
    assert record
    assert (record.state, record.attempt, [entry.reason for entry in record.tries]) == ("running", 2, ["stopped"])
    assert alive(again)
    room.command("stop", "--directory", str(room.folder / "agent-far"))
    wire.close()


def test_a_server_that_was_frozen_past_the_lease_takes_no_task_away(room: Room) -> None:
    lease = 2.0
    # Several beats within a lease, as everywhere.
    room.queue.configure({"heartbeat_seconds": 0.3})
    room.start("one")
    go = room.folder / "go"
    (task_id,) = room.submit(f"while [ ! -e {go} ]; do sleep 0.05; done")
    wait_until(lambda: room.queue.counts().running == 1, PATIENCE)
    assert room.queue.expire(lease_seconds=lease, silence_seconds=lease, alive_hosts=["one"]) == []
    room.valkey.signal(signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        wait_until(lambda: time.monotonic() - frozen > 2 * lease, PATIENCE)
    finally:
        room.valkey.signal(signal.SIGCONT)
    # As the keeper looks, which may well be heard before the agents are.
    thawed = time.monotonic()
    while time.monotonic() - thawed < lease:
        assert room.queue.expire(lease_seconds=lease, silence_seconds=lease, alive_hosts=["one"]) == []
    go.touch()
    assert room.queue.wait([task_id], timeout=PATIENCE), room.log()
    record = room.queue.task(task_id)
    assert record
    assert (record.state, record.attempt, record.agent, record.tries) == ("done", 1, "one#1", ())


@pytest.mark.root
def test_a_full_disk_under_the_spool_cuts_the_output_and_nothing_else(room: Room) -> None:
    with small_disk(room.folder / "agent-one", 4):
        room.start("one")
        large, small = room.run("head -c 20000000 /dev/zero | tr '\\0' x; echo the end", "echo small")
        assert (large.state, small.state) == ("done", "done")
        assert "No space left" in large.detail
        output = room.queue.output(large.id)
        assert (output.size, output.path) == (20_000_008, "")
        assert output.head == b"x" * 32768
        assert output.tail.endswith(b"xthe end\n")
        ballast = room.folder / "agent-one" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
        # Not a byte is left: tasks go on, and the agent is the same.
        worker = room.worker_pid("one")
        records = room.run(*(f"echo {number}" for number in range(20)))
        assert [room.queue.output(record.id).head for record in records] == [b"%d\n" % number for number in range(20)]
        assert room.worker_pid("one") == worker
        assert alive(worker)
        room.command("stop", "--directory", str(room.folder / "agent-one"))


def test_two_gigabytes_of_output_pass_through_little_memory(room: Room) -> None:
    room.start("one")
    size = 2048 * MIB
    (task_id,) = room.submit(f"head -c {size} /dev/zero")
    # A disk that others write too may need this long.
    assert room.queue.wait([task_id], timeout=90), f"{room.queue.counts()}; {room.log()}"
    record = room.queue.task(task_id)
    assert record
    output = room.queue.output(task_id)
    path = Path(output.path)
    try:
        assert (record.state, output.size, path.stat().st_size) == ("done", size, size)
    finally:
        path.unlink()
    for pid in (room.worker_pid("one"), room.guard_pid("one")):
        peak = int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
        assert peak < 64 * 1024, f"{peak} KiB: outputs are held in memory"
