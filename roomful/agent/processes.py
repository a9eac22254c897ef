"""Processes below us: who they are, and how to be rid of them. Linux only (``/proc``, subreapers)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from typing import Iterable, Iterator, NamedTuple

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    group: int
    #: ``R``, ``S``, ``D``, ``T``, ``Z`` ...
    state: str


def become_subreaper() -> bool:
    """Let orphans among our descendants become our children; False where the kernel has no such thing."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Set the name that ``ps -o comm`` shows; at most 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, value: object) -> bool:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def process(pid: int) -> Process | None:
    """Look a process up; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command, in parentheses, may contain anything, also parentheses and spaces.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), fields[0].decode())


def all_processes() -> Iterator[Process]:
    """Go through the process table."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = process(int(name))
            if found is not None:
                yield found


class Children:
    """Our children, as the kernel lists them for the main thread (which orphans are given to)."""

    def __init__(self) -> None:
        try:
            self._fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # A kernel without CONFIG_PROC_CHILDREN.
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def pids(self) -> list[int]:
        """List the pids of our children, zombies included."""
        if self._fd >= 0:
            text = b""
            while True:
                part = os.pread(self._fd, 65536, len(text))
                text += part
                if len(part) < 4096:
                    return [int(pid) for pid in text.split()]
        me = os.getpid()
        return [found.pid for found in all_processes() if found.parent == me]


def descendants(roots: Iterable[int]) -> list[int]:
    """List these processes and everything below them, parents first."""
    below: dict[int, list[int]] = {}
    for found in all_processes():
        below.setdefault(found.parent, []).append(found.pid)
    order = list(roots)
    for pid in order:
        order.extend(below.get(pid, ()))
    return order


def memory_of(pids: Iterable[int]) -> int:
    """Sum up the memory of processes, in bytes; what several share is counted by its share where the kernel says."""
    return sum(map(_memory_of, pids))


def _memory_of(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    # An older kernel; or it is gone.
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def freeze(roots: Iterable[int]) -> None:
    """Stop processes and everything below them, also what they start meanwhile."""
    stopped: set[int] = set()
    fresh = set(roots)
    while fresh:
        for pid in fresh:
            send(pid, signal.SIGSTOP)
        stopped |= fresh
        fresh = set(descendants(stopped)) - stopped


def thaw(roots: Iterable[int]) -> None:
    """Let processes and everything below them go on."""
    for pid in descendants(roots):
        send(pid, signal.SIGCONT)


def variable(pid: int, name: str) -> str | None:
    """Read a variable of the environment that a process was started with; None if it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            text = file.read()
    except OSError:
        return None
    for entry in text.split(b"\0"):
        if entry.startswith(name.encode() + b"="):
            return entry.partition(b"=")[2].decode("utf-8", "replace")
    return None


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: int) -> None:
    """Send a signal to a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap_all() -> None:
    """Collect every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def kill_descendants(seconds: float) -> list[int]:
    """Kill everything below us, however it hides, and return the pids that are still there after ``seconds``.

    We must be a subreaper: what its parent leaves behind comes to us, so nothing below us can slip away.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap_all()
        left = [pid for pid in descendants(Children().pids()) if pid != os.getpid()]
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.01)


def marked(name: str, value: str) -> list[int]:
    """List our user's processes, but for this one, that were started with a variable of this value."""
    me = os.getpid()
    candidates = [entry.pid for entry in all_processes() if entry.pid != me and entry.state != "Z"]
    return [pid for pid in candidates if variable(pid, name) == value]


def sweep(name: str, value: str, seconds: float) -> int:
    """Kill what an earlier agent left behind, known by a variable in its environment; return how many there were."""
    deadline = time.monotonic() + seconds
    seen = set()
    while True:
        left = marked(name, value)
        seen.update(left)
        if not left or time.monotonic() > deadline:
            return len(seen)
        for pid in descendants(left):
            if pid != os.getpid():
                send(pid, signal.SIGKILL)
        time.sleep(0.02)
