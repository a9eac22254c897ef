"""Files and trees as bytes, failures with a reason, and how a program here is asked and answers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

#: What an answer starts with: a login shell may print something of its own before.
ANSWER = "\nroomful-answer:"


class Refusal(Exception):
    """End with a reason; what was there before is as it was."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read a request from stdin, do the work, and print its answer, or ``failed`` and ``detail``."""
    request = json.loads(zlib.decompress(sys.stdin.buffer.read()))
    try:
        answer = work(request)
    except Refusal as refusal:
        answer = {"failed": refusal.reason, "detail": refusal.detail}
    except OSError as error:
        answer = {"failed": reason_of(error), "detail": described(error)}
    sys.stdout.write(f"{ANSWER}{json.dumps(answer)}\n")


def reason_of(error: OSError) -> str:
    reasons = {errno.ENOSPC: "disk-full", errno.EDQUOT: "quota"}
    return reasons.get(error.errno or 0, "error")


def described(error: OSError) -> str:
    path = error.filename
    if path is None:
        return str(error.strerror or error)
    return f"{shown(path) if isinstance(path, bytes) else path}: {error.strerror}"


def text(path: bytes) -> str:
    """Write a path as text that any bytes survive."""
    return path.decode("utf-8", "surrogateescape")


def raw(path: str) -> bytes:
    """Read back what ``text`` wrote."""
    return path.encode("utf-8", "surrogateescape")


def shown(path: bytes) -> str:
    """Write a path for people."""
    return path.decode("utf-8", "backslashreplace")


def home_path(path: str) -> bytes:
    """Resolve ``~`` and make a path absolute; a relative one starts where SSH does, in the home."""
    return os.path.abspath(os.path.expanduser(raw(path)))


def lstat(path: bytes) -> os.stat_result | None:
    """Return what is at a path, without following a link there; None for nothing."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def kind_of(info: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(info.st_mode), "other")


def listed(directory: bytes) -> list[bytes]:
    """Return the names in a directory, none if there is no such directory."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def below(directory: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield everything in a directory with its relative path, parents first; links are not followed."""
    waiting = [prefix]
    while waiting:
        folder = waiting.pop()
        for name in listed(os.path.join(directory, folder)):
            path = os.path.join(folder, name)
            info = lstat(os.path.join(directory, path))
            if info is not None:
                yield path, info
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(path)


def remove(path: bytes, on_removed: Callable[[os.stat_result], None] | None = None) -> None:
    """Remove a file or a tree as far as it lets us; ``on_removed`` is told of all that was no folder."""
    info = lstat(path)
    with contextlib.suppress(OSError):
        if info is not None and stat.S_ISDIR(info.st_mode):
            os.chmod(path, 0o700)
            for name in listed(path):
                remove(os.path.join(path, name), on_removed)
            os.rmdir(path)
        elif info is not None:
            os.unlink(path)
            if on_removed:
                on_removed(info)


def write(path: bytes, data: bytes) -> None:
    """Write a file that is either whole or not there, also after a power cut."""
    temporary = path + b".new"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


def sync(path: bytes) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network filesystems know no fsync of a directory: they wrote it through already.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
