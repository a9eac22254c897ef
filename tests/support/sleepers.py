"""Processes that can be told from all others: each sleeps for a number of seconds that no other one does."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

from tests.support.waiting import wait_until

_numbers = itertools.count(1)

#: Leaves two sleepers; one has its own session, no living parent, and none of its starter's environment.
TREE = "setsid sh -c 'env -i setsid sleep {mark} & exit' & sleep {mark}"


def new_mark() -> str:
    """A time to sleep, in seconds, that no other process sleeps."""
    return f"{86400 + os.getpid() % 1000}.{next(_numbers):03d}{random.randrange(1000):03d}"


def alive(mark: str, name: str = "") -> list[int]:
    """The processes whose command line holds the mark; with ``name``, those of that name."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
                comm, _, fields = (folder / "stat").read_bytes().partition(b"(")[2].rpartition(b")")
            except OSError:
                continue
            if mark.encode() in line and fields.split()[0] != b"Z" and name.encode() in (b"", comm):
                found.append(int(folder.name))
    return found


def wait_for_tree(mark: str, count: int = 2) -> None:
    """Wait until the sleepers of a TREE are there."""
    wait_until(lambda: len(alive(mark, "sleep")) == count, 10, lambda: f"sleepers: {alive(mark, 'sleep')}")


def wait_until_gone(mark: str, seconds: float) -> None:
    """Wait until no process with the mark is left."""
    wait_until(lambda: not alive(mark), seconds, lambda: f"still there: {alive(mark)}")
