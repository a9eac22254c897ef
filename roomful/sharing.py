"""Hosts of one run that share a disk (a home on a file server): what is done on it is done once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class _Group:
    """The hosts on one disk. ``done_by`` is the index of the host that did the work."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    done_by: int | None = None


class Turn:
    """A host's turn on its disk. ``done_by`` is the host that did the work before, None for nobody."""

    def __init__(self, group: _Group, index: int) -> None:
        self._group = group
        self._index = index

    @property
    def done_by(self) -> int | None:
        """The index of the host that has done the work on this disk already."""
        return self._group.done_by

    def done(self) -> None:
        """Say that this host did the work."""
        self._group.done_by = self._index


class Sharing:
    """Which hosts share a disk, by the marks of the others that each of them saw (``workdir/marks.py``)."""

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, index: int, seen: Iterable[int]) -> Iterator[Turn]:
        """Wait until no other host on the same disk has its turn, and take it."""
        with self._lock:
            hosts = [index, *seen]
            # Of two hosts at least the later one saw the other's mark, so the first of them to come here founds the
            # group for both.
            group = next((self._groups[host] for host in hosts if host in self._groups), None) or _Group()
            for host in hosts:
                self._groups.setdefault(host, group)
        with group.turn:
            yield Turn(group, index)


def disks(seen: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Return for every host the lowest index of those on its disk, from the marks of others that each of them saw."""
    first = {index: index for index in seen}

    def root(index: int) -> int:
        while first[index] != index:
            index = first[index]
        return index

    for index, others in seen.items():
        for other in others:
            low, high = sorted((root(index), root(other))) if other in first else (root(index), root(index))
            first[high] = low
    return {index: root(index) for index in seen}
