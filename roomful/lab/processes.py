"""The processes of a lab's hosts: found by the marker that only our init programs carry, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from roomful.errors import RoomfulError

#: In the environment of every host's init program (and, in a rootless lab, of its sessions): the host's folder.
MARKER = "ROOMFUL_LAB_HOST"
#: How long processes may take to be gone after SIGKILL.
KILL_SECONDS = 10.0
#: A host's log, in its folder: the standard error of its init and of its sshd.
LOG = "log"


def marked(folder: Path) -> set[int]:
    """Return the processes of one host's folder, or of all hosts below a lab's folder.

    They carry the marker in their environment, or (sshd overwrites its own) have a host's log as standard error.
    """
    return {pid for pid in _pids() if _has_marker(pid, folder) or _writes_log(pid, folder)}


def inits(folder: Path) -> set[int]:
    """Return those of ``marked`` that run a host's init program."""
    return {pid for pid in marked(folder) if _runs_init(pid, folder)}


def marked_running(folder: Path, script: str) -> set[int]:
    """Return those of ``marked`` that run this script of the lab's."""
    return {pid for pid in marked(folder) if _script(pid).endswith(f"/lab/{script}".encode())}


def _script(pid: int) -> bytes:
    """Return the script of ``interpreter -I -S SCRIPT ...``; b"" where the process runs something else."""
    try:
        return (Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") + [b""] * 4)[3]
    except OSError:
        return b""


def _has_marker(pid: int, folder: Path) -> bool:
    exact = f"{MARKER}={folder}".encode()
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    if exact not in environment or pid == os.getpid():
        return False
    return any(item == exact or item.startswith(exact + b"/") for item in environment.split(b"\0"))


def _writes_log(pid: int, folder: Path) -> bool:
    try:
        target = os.readlink(f"/proc/{pid}/fd/2")
    except OSError:
        return False
    return target.startswith(f"{folder}/") and target.removesuffix(" (deleted)").endswith(f"/{LOG}")


def _runs_init(pid: int, folder: Path) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # interpreter -I -S .../lab/init.py HOST_FOLDER
    return len(argv) >= 5 and argv[3].endswith(b"/lab/init.py") and _below(os.fsdecode(argv[4]), folder)


def _below(path: str, folder: Path) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def with_descendants(pids: Iterable[int]) -> set[int]:
    """Return these processes and everything they started, directly or not."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = stat_fields(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the command's name: state first, then the parent's pid (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def alive(pid: int) -> bool:
    """Tell whether this process exists and is no zombie."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each; one that is gone already is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(find: Callable[[], set[int]], seconds: float = KILL_SECONDS) -> None:
    """Send SIGKILL to what ``find`` finds until it finds nothing: a process may fork while it is being found.

    Raises RoomfulError naming what is still there after the deadline.
    """
    deadline = time.monotonic() + seconds
    while pids := {pid for pid in find() if alive(pid)}:
        send(pids, signal.SIGKILL)
        while any(alive(pid) for pid in pids):
            if time.monotonic() > deadline:
                left = ", ".join(str(pid) for pid in sorted(pids) if alive(pid))
                raise RoomfulError(f"processes do not end: {left}", why="the kernel holds them (state D?)")
            time.sleep(0.005)


def end(find: Callable[[], set[int]], seconds: float) -> None:
    """Send SIGTERM to what ``find`` finds, and SIGKILL to what is left after this time."""
    pids = find()
    send(pids, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(find)


def own_line() -> set[int]:
    """Return this process and those above it, which must not be ended from here."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = stat_fields(pid)
        pid = int(fields[1]) if fields else 0
    return found


def stop(find: Callable[[], set[int]]) -> set[int]:
    """Send SIGSTOP to what ``find`` finds until all of it is stopped; return them."""
    stopped: set[int] = set()
    while pids := find() - stopped:
        send(pids, signal.SIGSTOP)
        stopped |= pids
    return stopped


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
