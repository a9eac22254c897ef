"""Join a lab's controller network namespace, in this process or in one thread of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from roomful.errors import RoomfulError
from roomful.lab import kernel
from roomful.openssh import NETNS_DIRECTORY, inside_namespace

T = TypeVar("T")

#: The network that this process was in before it entered a lab's: an open file, or -1.
_outside = -1

#: Files below this folder's NAME replace those of /etc for whoever enters the namespace NAME, as for ip-netns(8).
CONFIGURATION = Path("/etc/netns")
#: A thread that has been joined may be on its way out for so long.
GONE_SECONDS = 1.0


def inside(netns: str) -> bool:
    """Tell whether this process already runs in the named network namespace."""
    return inside_namespace(netns)


def enter(netns: str) -> None:
    """Make this process (and all it starts from now on) run in the named network namespace; twice is once.

    Does what ``ip netns exec`` does, without a new process: the network namespace is joined, and in a mount
    namespace of our own the files of /etc/netns/NAME lie over those of /etc, so that the lab's host names resolve.
    Call it while the process has only its main thread: other threads would stay outside.

    Raises RoomfulError when not root, when there is no such namespace, or when other threads run.
    """
    global _outside
    if inside(netns):
        return
    _check(netns)
    if not is_alone():
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RoomfulError(f"cannot enter the lab's network {netns!r}", why=f"more than one thread runs: {names}")
    try:
        if _outside < 0:
            _outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        kernel.join_namespace(NETNS_DIRECTORY / netns, kernel.CLONE_NEWNET)
        kernel.unshare(kernel.CLONE_NEWNS)
        # What is mounted outside from now on still appears here; what we mount stays ours.
        kernel.mount("none", Path("/"), flags=kernel.MS_REC | kernel.MS_SLAVE)
        with contextlib.suppress(FileNotFoundError):
            for source in (CONFIGURATION / netns).iterdir():
                target = Path("/etc") / source.name
                if target.exists():
                    kernel.mount(str(source), target.resolve(), flags=kernel.MS_BIND)
    except OSError as error:
        raise RoomfulError(f"cannot enter the lab's network {netns!r}", why=str(error)) from error


def is_alone() -> bool:
    """Whether the main thread is the only one; those that have ended need a moment to be gone for the kernel."""
    deadline = time.monotonic() + GONE_SECONDS
    while len(os.listdir("/proc/self/task")) > 1:
        if threading.active_count() > 1 or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def call_inside(netns: str | None, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that has joined the namespace; the process itself stays where it is.

    Sockets that it opens belong to the namespace. None: run it here.
    """
    if netns is None or inside(netns):
        return work()
    _check(netns)
    return _call_in(NETNS_DIRECTORY / netns, f"inside {netns}", work)


def call_outside(work: Callable[[], T]) -> T:
    """Run ``work`` in the network that this process was in before it entered a lab's, if it has: there is no way out
    of that one.
    """
    return work() if _outside < 0 else _call_in(Path(f"/proc/self/fd/{_outside}"), "outside", work)


def _call_in(namespace: Path, name: str, work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            kernel.join_namespace(namespace, kernel.CLONE_NEWNET)
            results.append(work())
        except BaseException as error:  # handed over to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _check(netns: str) -> None:
    if os.geteuid() != 0:
        raise RoomfulError(f"cannot enter the lab's network {netns!r}", why="only root can", fix="run as root")
    if not (NETNS_DIRECTORY / netns).exists():
        raise RoomfulError(f"there is no lab network {netns!r}", fix="start it with: inv lab.up")
