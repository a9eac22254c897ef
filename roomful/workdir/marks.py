"""Marks by which hosts find out that they share a disk, as with a home on a file server."""

from __future__ import annotations

import os

from roomful.workdir.files import listed, lstat, raw, remove, text

#: Marks of earlier runs are removed after this long, by the file server's clock.
MARK_SECONDS = 3600


def mark_of(own: bytes, run: str, index: int) -> bytes:
    """Return the path of a host's mark. Its time is the disk's: what has changed lately is told by it."""
    return os.path.join(own, b"marks", raw(f"{run}.{index}"))


def leave_mark(own: bytes, run: str, index: int) -> list[int]:
    """Leave a mark in our folder, and return whose marks of the same run are there: those hosts share this disk.

    Everyone writes before they look, so of two hosts at least one sees the other. Writing also makes an NFS client
    look again instead of answering from its cache.
    """
    ours = mark_of(own, run, index)
    marks = os.path.dirname(ours)
    os.makedirs(marks, exist_ok=True)
    with open(ours, "wb"):
        pass
    now = os.stat(ours).st_mtime
    seen = []
    for name in listed(marks):
        owner, _, other = text(name).rpartition(".")
        if owner == run and other.isdigit():
            seen += [int(other)] if int(other) != index else []
            continue
        info = lstat(os.path.join(marks, name))
        if info is not None and now - info.st_mtime > MARK_SECONDS:
            remove(os.path.join(marks, name))
    return seen
