"""A payload on a host: files that are written as they come, while whoever sends them on follows.

A seed stands where a push that was cut would: what is in it need not be sent again, and is verified as everything is.
The stream is a line of JSON for each file, followed by its bytes; an empty line ends it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from roomful.workdir.files import Refusal, below, kind_of, lstat, raw, remove, text, write

CHUNK_BYTES = 1 << 18
#: What one sendfile is asked for at most: between two of them it is seen whether the payload was cut.
PIECE_BYTES = 1 << 20
#: A file's line is a path and three numbers.
LONGEST_LINE = 1 << 16
#: In a seed, what the files had for digests as they came. No payload has that folder (see manifest.py).
DIGESTS = b".roomful/digests"


class Part(NamedTuple):
    """One file of the payload and the line that announces it."""

    line: bytes
    path: bytes
    size: int


class Received(NamedTuple):
    """A file as it was when its last byte had been written, and the SHA-256 of those bytes."""

    size: int
    mtime_ns: int
    digest: str


class Seed:
    """What of a payload is here. One thread takes it in, another one may send it on meanwhile.

    What is sent is read from the files, so a slow or dead neighbour holds nobody up and needs no memory.
    """

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self._parts: list[Part] = []
        #: Bytes of the last part that are in its file.
        self._written = 0
        self._ended = False
        self._cut = False
        self._changed = threading.Condition()
        self._moved = time.monotonic()

    def load(self) -> None:
        """Take what stands in a seed that is complete."""
        own = DIGESTS.split(b"/", 1)[0]
        for path, info in below(self.folder):
            if kind_of(info) == "file" and path.split(b"/", 1)[0] != own:
                self._announce(Part(header_of(path, info), path, info.st_size))
                self._advance(info.st_size)
        self._end()

    def take(self, stream: IO[bytes], limit: int) -> None:
        """Write what comes, at most ``limit`` bytes of files; raises Refusal where it is cut or makes no sense."""
        os.makedirs(self.folder, exist_ok=True)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        received: dict[int, Received] = {}
        while True:
            line = stream.readline(LONGEST_LINE)
            if not line.endswith(b"\n"):
                raise Refusal("lost", "the payload was cut")
            if line == b"\n":
                break
            try:
                header = json.loads(line)
                path, size = raw(header["path"]), int(header["size"])
                mode, mtime_ns = int(header["mode"]) & 0o777, int(header["mtime_ns"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise Refusal("protocol", "what comes is no payload") from None
            if path.startswith(b"/") or b".." in path.split(b"/"):
                raise Refusal("protocol", f"a path leads out of the payload: {header['path']}")
            limit -= size
            if size < 0 or limit < 0:
                raise Refusal("protocol", "more comes than was announced")
            full = os.path.join(self.folder, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            # An attempt that was given up may still write here: into its file, not into this one.
            remove(full)
            handle = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._announce(Part(line, path, size))
                digest = self._copy(stream, handle, size, buffer)
                os.fchmod(handle, mode)
                os.utime(handle, ns=(mtime_ns, mtime_ns))
                info = os.fstat(handle)
            finally:
                os.close(handle)
            received[info.st_ino] = Received(info.st_size, info.st_mtime_ns, digest)
        os.makedirs(os.path.dirname(os.path.join(self.folder, DIGESTS)), exist_ok=True)
        write(os.path.join(self.folder, DIGESTS), json.dumps(received).encode())
        self._end()

    def _copy(self, stream: Any, handle: int, size: int, buffer: memoryview) -> str:
        digest = hashlib.sha256()
        done = 0
        while done < size:
            count = stream.readinto1(buffer[: min(size - done, CHUNK_BYTES)])
            if not count:
                raise Refusal("lost", "the payload was cut")
            data = buffer[:count]
            digest.update(data)
            while data:
                data = data[os.write(handle, data) :]
            done += count
            self._advance(done)
        return digest.hexdigest()

    def cut(self) -> None:
        """Say that nothing more comes: who sends it on gives up."""
        with self._changed:
            self._cut = not self._ended
            self._changed.notify_all()

    def silence(self) -> float:
        """Return for how many seconds nothing has come of what is to come."""
        with self._changed:
            return 0.0 if self._ended or self._cut else time.monotonic() - self._moved

    def _announce(self, part: Part) -> None:
        with self._changed:
            self._parts.append(part)
            self._written = 0
            self._changed.notify_all()

    def _advance(self, written: int) -> None:
        with self._changed:
            self._written = written
            self._moved = time.monotonic()
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def feed(self, target: int, moved: Callable[[], object]) -> None:
        """Write the payload to a pipe or socket as it comes, and call ``moved`` whenever some of it went.

        Raises OSError when the other side is gone, and Refusal when the payload is cut.
        """
        number = 0
        while (part := self._await_part(number)) is not None:
            send_all(target, part.line)
            handle = os.open(os.path.join(self.folder, part.path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                sent = 0
                while sent < part.size:
                    count = min(self._await_bytes(number, sent) - sent, PIECE_BYTES)
                    count = send_some(target, handle, sent, count)
                    if not count:
                        raise Refusal("lost", "a file became shorter while it was sent on")
                    sent += count
                    moved()
            finally:
                os.close(handle)
            number += 1
        send_all(target, b"\n")

    def _await_part(self, number: int) -> Part | None:
        """Return a file as soon as it begins to come, None after the last one; raises Refusal when cut."""
        with self._changed:
            while len(self._parts) <= number:
                if self._ended:
                    return None
                self._wait()
            return self._parts[number]

    def _await_bytes(self, number: int, sent: int) -> int:
        """Return how many bytes of a file are here, more than were sent; raises Refusal when cut."""
        with self._changed:
            while True:
                here = self._parts[number].size if number < len(self._parts) - 1 else self._written
                if here > sent:
                    return here
                self._wait()

    def _wait(self) -> None:
        if self._cut:
            raise Refusal("lost", "the payload was cut")
        self._changed.wait()


def send_some(target: int, handle: int, offset: int, count: int) -> int:
    """Send bytes of a file without taking them into this process, where the system can do that."""
    try:
        return os.sendfile(target, handle, offset, count)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    return os.write(target, os.pread(handle, min(count, CHUNK_BYTES), offset))


def send_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def header_of(path: bytes, info: os.stat_result) -> bytes:
    document = {"path": text(path), "size": info.st_size, "mode": info.st_mode, "mtime_ns": info.st_mtime_ns}
    return json.dumps(document).encode() + b"\n"


class Digests:
    """The digests of files in seeds, found again by the file itself: a hard link to it needs no second reading."""

    def __init__(self, folders: list[bytes]) -> None:
        self._received: dict[int, Received] = {}
        for folder in folders:
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                with open(os.path.join(folder, DIGESTS), "rb") as file:
                    known = json.loads(file.read())
                self._received.update((int(inode), Received(*values)) for inode, values in known.items())

    def of(self, path: bytes) -> str | None:
        """Return the digest that a file had when it was written, if it is that file and was not touched since."""
        info = lstat(path)
        received = self._received.get(info.st_ino) if info is not None else None
        if info is None or received is None or kind_of(info) != "file":
            return None
        return received.digest if (info.st_size, info.st_mtime_ns) == received[:2] else None
