"""Steps of one project that would undo each other's work on the same hosts take turns.

Every host by itself is safe whatever comes together there. But of two deployments at once each would win on some of
the hosts, and both would say that all is well. So who changes what on which hosts stands in ``.roomful/turns/``, a
file for each step that is at work; it is locked, so that one that was killed is known to be over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from roomful.hosts import Host
from roomful.settings import Settings
from roomful.state import ProjectState, private_directory

#: Between two looks at whether the others are done.
LOOK_SECONDS = 0.2
#: The place of a step that changes all there is.
EVERYWHERE = "*"


@dataclass(frozen=True)
class Turn:
    """A step at work: its name, its process, what it changes (a folder in the workdir), and the hosts' labels."""

    name: str
    pid: int
    place: str
    labels: frozenset[str]

    def conflicts(self, other: Turn) -> bool:
        """Tell whether the two would undo each other's work."""
        same_place = self.place == other.place or EVERYWHERE in (self.place, other.place)
        return same_place and bool(self.labels & other.labels)

    def to_bytes(self) -> bytes:
        """Write it as JSON."""
        return json.dumps({**vars(self), "labels": sorted(self.labels)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Turn | None:
        """Read what ``to_bytes`` wrote; None for anything else."""
        try:
            document = json.loads(data)
            return cls(**{**document, "labels": frozenset(document["labels"])})
        except (ValueError, KeyError, TypeError):
            return None


@contextlib.contextmanager
def turn(
    name: str, place: str, hosts: Iterable[Host], settings: Settings, on_wait: Callable[[Turn], None]
) -> Iterator[None]:
    """Wait until no other step changes this place on one of these hosts, and keep others out during the block.

    ``on_wait`` is called with each step that is waited for, once.
    """
    folder = private_directory(private_directory(ProjectState(settings).directory) / "turns")
    mine = Turn(name, os.getpid(), place, frozenset(host.label for host in hosts))
    told: set[Turn] = set()
    while isinstance(entry := _entered(folder, mine), Turn):
        if entry not in told:
            told.add(entry)
            on_wait(entry)
        time.sleep(LOOK_SECONDS)
    path, file = entry
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _entered(folder: Path, mine: Turn) -> tuple[Path, BinaryIO] | Turn:
    """Enter the turn, which lasts as long as the file is open; or return who is in the way."""
    with (folder / ".lock").open("a") as lock:
        # Nobody enters while we look.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in sorted(folder.glob("[!.]*")):
            other = _holder(path)
            if other is not None and other.conflicts(mine):
                return other
        path = folder / secrets.token_hex(8)
        file = path.open("wb", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(mine.to_bytes())
        return path, file


def _holder(path: Path) -> Turn | None:
    """Return who is at work there; removes the file of one that is over."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Turn.from_bytes(file.read())
        path.unlink(missing_ok=True)
    return None
