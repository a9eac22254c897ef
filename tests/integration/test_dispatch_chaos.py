"""Many dsh at once, interrupted, stopped, continued and killed at any moment: nothing hangs, nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.dispatcher import Room, room, running_room
from tests.support.lab import lab, rootless_lab
from tests.support.sleepers import new_mark, wait_until_gone
from tests.support.waiting import wait_until

__all__ = ["lab", "room", "rootless_lab", "running_room"]

SECONDS = 15.0
AT_ONCE = 30
#: What a shell's user and the system do to a process group, one signal after the other.
TREATMENTS = (
    (signal.SIGINT,),
    (signal.SIGTERM,),
    (signal.SIGHUP,),
    (signal.SIGKILL,),
    (signal.SIGTSTP, signal.SIGCONT),
    (signal.SIGTSTP, signal.SIGCONT, signal.SIGINT),
    (signal.SIGINT, signal.SIGINT, signal.SIGTERM),
)
#: What such a command may end with, besides its own codes: the client's death, or 128 and the signal's number.
BY_SIGNAL = {-1, -2, -9, -15, 129, 130, 143}


def lines(mark: str, room: Room) -> Mapping[str, set[int]]:
    """Command lines with their own exit codes: long and short, with and without input, output, children, files."""
    sync = f"cd sync && exec dsh --sync --chdir {room.work}/sync={room.work}/there"
    return {
        f"exec dsh sleep {mark}": set(),
        f"exec dsh --retry 2 sleep {mark}": set(),
        "exec dsh sleep 0.1": {0},
        "exec dsh cat < data": {0},
        f"dsh yes {mark} | head -c 300000": {0},
        f"exec dsh sh -c 'trap \"exit 7\" INT TERM HUP; while :; do sleep 0.05; done # {mark}'": {7},
        f"exec dsh sh -c 'sleep {mark} & sleep 0.1'": {0},
        "exec dsh sh -c 'for i in 1 2 3; do echo $i; echo $i >&2; sleep 0.02; done'": {0},
        "exec dsh no-such-program": {127},
        f"{sync} sh -c 'cat in > out; sleep 0.1'": {0},
    }


def start(room: Room, line: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", line],
        cwd=room.work,
        env=room.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def treat(process: subprocess.Popen[bytes], numbers: tuple[signal.Signals, ...]) -> None:
    for number in numbers:
        os.killpg(process.pid, number)


def count(folder: str, pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/{folder}"))


def test_whatever_happens_to_them_each_ends_and_nothing_is_left(room: Room) -> None:
    rng = random.Random()
    pid, mark = room.pid, new_mark()
    (room.work / "data").write_bytes(os.urandom(300_000))
    (room.work / "sync").mkdir()
    (room.work / "sync" / "in").write_bytes(os.urandom(100_000))
    room.sh("dsh true; dsh true; dsh true")
    before = {folder: count(folder, pid) for folder in ("fd", "task")}
    choices = list(lines(mark, room).items())
    running: list[tuple[str, subprocess.Popen[bytes], float]] = []
    wrong: list[tuple[str, int]] = []
    begin = time.monotonic()
    total = 0

    def still_running(goes_on: Callable[[float], bool]) -> None:
        """Let go of those that have ended, and do something to those whose time has come."""
        now = time.monotonic()
        for number, (line, process, moment) in enumerate(running):
            if process.poll() is None and now >= moment:
                treat(process, rng.choice(TREATMENTS) if goes_on(now) else (signal.SIGCONT, signal.SIGTERM))
                running[number] = (line, process, now + rng.uniform(0.5, 1.5))
        for line, process, _ in running:
            if process.returncode is not None and process.returncode not in dict(choices)[line] | BY_SIGNAL:
                wrong.append((line, process.returncode))
        running[:] = [entry for entry in running if entry[1].returncode is None]

    while time.monotonic() < begin + SECONDS:
        while len(running) < AT_ONCE:
            line = rng.choice(choices)[0]
            running.append((line, start(room, line), time.monotonic() + rng.uniform(0.0, 1.0)))
            total += 1
        still_running(lambda now: now < begin + SECONDS)
        time.sleep(0.01)
    deadline = time.monotonic() + 20
    while running and time.monotonic() < deadline:
        still_running(lambda _: False)
        time.sleep(0.01)
    hanging = [(line, Path(f"/proc/{process.pid}/wchan").read_text()) for line, process, _ in running]
    for _, process, _ in running:
        treat(process, (signal.SIGKILL,))
    assert not hanging, f"{len(hanging)} of {total} do not end"
    # A signal that meets Python's own start can end it with 1.
    assert [entry for entry in wrong if entry[1] != 1] == [], total
    assert len(wrong) < total / 100
    wait_until_gone(mark, 8)
    wait_until(lambda: not any(row["ours"] for row in room.loads()), 8, room.loads)
    assert room.pid == pid, "it has survived"
    wait_until(lambda: all(count(folder, pid) < before[folder] + 8 for folder in before), 8, lambda: before)
    wait_until(lambda: not list(room.work.rglob(".*")), 8, lambda: list(room.work.rglob(".*")))
