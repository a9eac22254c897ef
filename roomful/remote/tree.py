"""One command's process tree: a supervisor that starts it, reports its end, and can end every process of it.

The supervisor is a fork of the launcher, one a command. It is a child subreaper: processes that leave the command's
session or lose their parent become the supervisor's children, so nothing escapes it. It ends when the last process of
the tree has. SIGTERM tells it to end the tree; the kernel sends that when the launcher dies (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from typing import AbstractSet, Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
#: The signals that a supervisor waits for; blocked before the fork so that none is lost.
WATCHED = {signal.SIGCHLD, signal.SIGTERM}
#: Seconds after which a tree that may not be killed (another user's processes) is given up.
GIVE_UP = 5.0

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    if _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def supervise(job: Any, report: int, launcher: int) -> None:
    """Start ``job`` and watch its tree; never returns.

    Writes lines to ``report``: ``S pid`` or ``F reason``, later ``X status``, and ``G reason`` where it gives up on
    processes that it may not kill. Its end-of-file means: nothing else is left.
    """
    try:
        adopt_orphans()
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != launcher:
            os._exit(0)
        try:
            leader = job.spawn()
        except OSError as error:
            _say(report, f"F {error.filename or job.argv[0]}: {error.strerror}")
            os._exit(0)
        except ValueError as error:
            # Python refuses by itself what no program can have: no name, a NUL in a word.
            _say(report, f"F {job.argv[0]}: {error}")
            os._exit(0)
        finally:
            # The command has its own copies; ours would keep its pipes open.
            for fd in (job.stdin, job.stdout, job.stderr):
                os.close(fd)
        _say(report, f"S {leader}")
        _watch(leader, report)
    finally:
        os._exit(1)


def _watch(leader: int, report: int) -> None:
    killing = 0.0
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(0)
            if pid == 0:
                break
            if pid == leader:
                _say(report, f"X {exit_status(status)}")
        if not killing:
            if signal.sigwait(WATCHED) == signal.SIGTERM:
                killing = time.monotonic()
                # Most trees are one process group: that spares a look at every process of the host.
                signal_group(leader, signal.SIGKILL)
                signal.sigtimedwait(WATCHED, 0.005)
            continue
        refused = kill_descendants()
        if refused and time.monotonic() - killing > GIVE_UP:
            _say(report, f"G {_named(refused)}")
            os._exit(0)
        signal.sigtimedwait(WATCHED, 0.02)


def exit_status(status: int) -> int:
    """Turn what waitpid returned into an exit code, or minus the signal's number."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _say(report: int, line: str) -> None:
    # Where nobody reads it the launcher is dead, and SIGTERM is on its way.
    with contextlib.suppress(OSError):
        os.write(report, line.replace("\n", " ").encode("utf-8", "replace")[:4000] + b"\n")


def kill_descendants(spare: AbstractSet[int] = frozenset()) -> list[int]:
    """SIGKILL every descendant of this process but the children in ``spare``; returns those that we may not kill.

    One round: what is born meanwhile is for the next one.
    """
    refused = []
    for pid in descendants(os.getpid(), spare):
        with contextlib.suppress(ProcessLookupError):
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                refused.append(pid)
    if refused:
        sudo_kill(signal.SIGKILL, refused)
    return refused


def _named(pids: list[int]) -> str:
    """Say which processes cannot be killed, and why."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/comm", "rb") as file:
                name = file.read().decode("utf-8", "replace").strip()
            found.append(f"{pid} ({name}, of user {os.stat(f'/proc/{pid}').st_uid})")
    return f"still running: {', '.join(found)}; another user's processes need 'sudo -n kill' to be allowed there"


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a command's process group."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(leader, number)
        except PermissionError:
            sudo_kill(number, [-leader])


def sudo_kill(number: int, pids: list[int]) -> None:
    """Send a signal to another user's processes, where sudo needs no password: experiments start programs with it."""
    argv = ["sudo", "-n", "kill", f"-{int(number)}", "--", *map(str, pids)]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        helper = os.posix_spawnp("sudo", argv, os.environ, file_actions=actions, setsigmask=[])
        deadline = time.monotonic() + 2.0
        while os.waitpid(helper, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
    except OSError:
        pass  # no sudo here, or somebody else has waited for it
    finally:
        os.close(null)


def descendants(root: int, spare: AbstractSet[int] = frozenset()) -> list[int]:
    """Return every process below ``root``, nearest first."""
    family = _family()
    found: list[int] = []
    level = [pid for pid in family.get(root, ()) if pid not in spare]
    while level:
        found += level
        level = [child for pid in level for child in family.get(pid, ())]
    return found


def _family() -> dict[int, list[int]]:
    """Every process's children. One pass over /proc: ``task/*/children`` misses what a thread's end hands over."""
    family: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name in parentheses may hold anything; the fields after it are state and parent.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            family.setdefault(parent, []).append(int(name))
    return family
