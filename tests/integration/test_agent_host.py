"""What agents do when their host's memory runs out, and while its owners use it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import PATIENCE, Room
from tests.support.lab import need
from tests.support.waiting import wait_until

MIB = 1024 * 1024
#: The time limit of a task that is suspended for longer.
LIMIT_SECONDS = 4.0
#: Takes megabytes one after the other, up to a number, and then waits for a file.
EAT = (
    "python3 -c 'import os, sys, time; most, path, kept = int(sys.argv[1]), sys.argv[2], []\n"
    "while len(kept) < most: kept.append(bytearray(os.urandom(1024)) * 1024); time.sleep(0.01)\n"
    "while not os.path.exists(path): time.sleep(0.02)' "
)


@pytest.fixture
def small(own: Room) -> Iterator[str]:
    """A Python that runs in a control group with 400 MiB of memory: for an agent that believes that is its host."""
    if os.geteuid() != 0:
        need("control groups need root")
    v1 = Path("/sys/fs/cgroup/memory")
    base, name = (v1, "memory.limit_in_bytes") if v1.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = base / f"roomful-test-{os.getpid()}"
    try:
        if base != v1:
            (base / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / name).write_text(str(400 * MIB))
    except OSError as error:
        need(f"no control group of our own: {error}")
    yield wrapper(own, f"echo $$ > {group}/cgroup.procs")
    own.close_agents()
    wait_until(lambda: not (group / "cgroup.procs").read_text(), PATIENCE)
    group.rmdir()


def wrapper(room: Room, command: str, run: str = "exec") -> str:
    """Write a program that is Python, but does something first."""
    path = room.folder / "python"
    path.write_text(f'#!/bin/sh\n{command}\n{run} python3 "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_the_newest_task_goes_back_when_memory_runs_out_and_the_oldest_ends(own: Room, small: str) -> None:
    own.queue.configure({"nice": 0, "memory_accept": 100 * MIB, "memory_evict": 80 * MIB})
    own.start(python=small, cpus=2)
    client = own.client("one")
    assert client.memory_bytes == 400 * MIB
    go = own.folder / "go"
    (old,) = own.submit(f"{EAT} 150 {go}")
    wait_until(lambda: 0 < own.client("one").memory_free_bytes < 240 * MIB, PATIENCE, lambda: own.client("one"))
    (new,) = own.submit(f"{EAT} 300 {own.folder}/never & wait")
    record = wait_until(lambda: (found := own.queue.task(new)) and found.tries and found, PATIENCE, own.log)
    assert [entry.reason for entry in record.tries][:1] == ["evicted"]
    said = re.fullmatch(r"it had (\d+) MiB, and (\d+) of 400 MiB were free", record.tries[0].detail)
    assert said, record.tries[0].detail
    assert 10 < int(said[2]) < 80, "below what was set, and above what is the default"
    assert int(said[1]) > 100, "all its processes count"
    assert own.queue.task(old).state == "running"  # type: ignore[union-attr]
    go.touch()
    assert own.queue.wait([old], timeout=PATIENCE)
    ended = own.queue.task(old)
    assert ended
    assert (ended.state, ended.attempt, ended.tries) == ("done", 1, ()), ended


def test_a_task_that_fills_the_host_alone_fails_and_does_not_come_back(own: Room, small: str) -> None:
    own.queue.configure({"nice": 0, "memory_accept": 60 * MIB, "memory_evict": 40 * MIB})
    own.start(python=small, cpus=2)
    (record,) = own.run(f"{EAT} 1000 never")
    assert (record.state, record.reason) == ("failed", "needs more memory than one has")
    assert [entry.reason for entry in record.tries] == []
    (after,) = own.run("true")
    assert after.state == "done"


def test_what_is_free_counts_and_not_what_others_have_declared(own: Room, small: str) -> None:
    own.queue.configure({"nice": 0, "memory_accept": 20 * MIB, "memory_evict": 10 * MIB})
    own.start(python=small, cpus=4)
    go = own.folder / "go"
    (first,) = own.submit(f"{EAT} 200 {go}")
    wait_until(lambda: 0 < own.client("one").memory_free_bytes < 190 * MIB, PATIENCE, lambda: own.client("one"))
    (second,) = own.submit("true", memory_bytes=200 * MIB)
    (third,) = own.submit("true # less", memory_bytes=20 * MIB)
    assert own.queue.wait([third], timeout=PATIENCE), own.log()
    time.sleep(0.5)
    assert [own.queue.task(one).state for one in (first, second)] == ["running", "todo"]  # type: ignore[union-attr]
    go.touch()
    assert own.queue.wait([first, second], timeout=PATIENCE), own.log()
    assert [record.state for record in own.queue.tasks()] == ["done"] * 3


def test_tasks_that_together_need_too_much_all_end(own: Room, small: str) -> None:
    own.queue.configure({"nice": 0, "memory_accept": 60 * MIB, "memory_evict": 40 * MIB})
    own.start(python=small, cpus=4)
    (own.folder / "go").touch()
    ids = own.submit(*(f"{EAT} 170 {own.folder}/go # {number}" for number in range(4)))
    assert own.queue.wait(ids, timeout=60), own.log()
    records = list(own.queue.tasks())
    assert [record.state for record in records] == ["done"] * 4, records
    assert {entry.reason for record in records for entry in record.tries} == {"evicted"}
    kernel = any("the kernel" in entry.detail for record in records for entry in record.tries)
    assert kernel or records[0].attempt == 1, "the oldest is never touched by us"
    assert max(record.attempt for record in records) < 8


def test_tasks_are_nice_and_their_disk_traffic_is_idle(own: Room) -> None:
    own.start()
    (record,) = own.run("sleep 0.1; nice; (nice); ionice 2>&1; setsid nice")
    assert own.queue.output(record.id).head.split() == [b"10", b"10", b"idle", b"10"]
    own.queue.configure({"nice": 0}, host="one")
    wait_until(lambda: own.client("one").seconds_since_heartbeat < 0.1, PATIENCE)
    time.sleep(1.5)
    (record,) = own.run("sleep 0.1; nice; ionice 2>&1")
    assert own.queue.output(record.id).head.split()[:2] == [b"0", b"none:"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_nice_task_leaves_the_cpu_to_the_hosts_owners(own: Room) -> None:
    own.start()
    pid_file, spin = own.folder / "pid", "while :; do :; done"
    (task_id,) = own.submit(f"echo $$ > {pid_file}; {spin}", timeout=600)
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), PATIENCE)
    task = int(pid_file.read_text())
    # As if logged in elsewhere: a session of its own, and on the same CPU.
    owner = subprocess.Popen(["sh", "-c", spin], start_new_session=True)
    try:
        for pid in (task, owner.pid):
            os.sched_setaffinity(pid, [0])
        time.sleep(1.5)
        before = cpu_seconds(task), cpu_seconds(owner.pid)
        time.sleep(2)
        ours, theirs = cpu_seconds(task) - before[0], cpu_seconds(owner.pid) - before[1]
    finally:
        owner.kill()
        owner.wait()
    own.queue.cancel([task_id])
    assert ours < theirs / 4, f"the task had {ours:.2f} s of the CPU, the owner {theirs:.2f} s"


def test_no_task_starts_where_others_load_the_host(own: Room) -> None:
    own.queue.configure({"max_load": 0.0001})
    own.start()
    (task_id,) = own.submit("true")
    if os.getloadavg()[0] < 0.01:
        need("nobody loads this machine")
    wait_until(lambda: "others load the host" in own.client("one").busy_with, PATIENCE)
    assert own.queue.task(task_id).state == "todo"  # type: ignore[union-attr]
    own.queue.configure({"max_load": None})
    assert own.queue.wait([task_id], timeout=PATIENCE)


def test_tasks_stand_still_while_somebody_is_at_the_console(own: Room) -> None:
    if os.geteuid() != 0:
        need("a console of our own needs root")
    run = own.folder / "run"
    run.mkdir()
    python = wrapper(own, "", f"exec unshare -m sh -c 'mount --bind {run} /run && exec \"$@\"' sh")
    own.queue.configure({"while_idle": True})
    own.start(python=python)
    count = own.folder / "count"
    script = "while :; do echo >> {0}; sleep 0.02; done & setsid sh -c 'while :; do echo >> {0}.2; sleep 0.02; done'"
    go = own.folder / "go"
    (limited,) = own.submit(f"while [ ! -e {go} ]; do sleep 0.05; done", timeout=LIMIT_SECONDS, cpus=0)
    (task_id,) = own.submit(script.format(count), timeout=600)
    wait_until(lambda: count.exists() and (own.folder / "count.2").exists(), PATIENCE)
    begin = time.monotonic()
    record = struct.pack("=hxxi32s4s32s256s", 7, os.getpid(), b"tty2", b"2", b"ada", b"").ljust(384, b"\0")
    (run / "utmp").write_bytes(record)
    wait_until(lambda: "ada at the console" in own.client("one").busy_with, PATIENCE)
    (later,) = own.submit("true")

    def sizes() -> tuple[int, int]:
        return count.stat().st_size, (own.folder / "count.2").stat().st_size

    def still() -> bool:
        before = sizes()
        time.sleep(0.5)
        return before == sizes()

    wait_until(still, PATIENCE, sizes)
    assert own.queue.task(later).state == "todo"  # type: ignore[union-attr]
    assert own.queue.task(task_id).state == "running"  # type: ignore[union-attr]
    stopped = sizes()
    time.sleep(max(0.0, begin + LIMIT_SECONDS + 0.1 - time.monotonic()))
    go.touch()
    (run / "utmp").write_bytes(b"")
    wait_until(lambda: sizes()[0] > stopped[0] and sizes()[1] > stopped[1], PATIENCE, sizes)
    own.queue.cancel([task_id])
    assert own.queue.wait([later, limited], timeout=PATIENCE)
    assert own.queue.task(limited).state == "done", "the time between does not count"  # type: ignore[union-attr]
