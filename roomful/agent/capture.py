"""What a task writes: every byte kept, little of it in memory."""

from __future__ import annotations

import contextlib
import fcntl
import os

from roomful.agent.pipes import Pipes

#: A stream up to this size travels to the queue; of a larger one only its two ends do, half of this each.
INLINE_BYTES = 64 * 1024
_HALF = INLINE_BYTES // 2
_READ_BYTES = 256 * 1024
#: Bytes taken from one stream before the others have their turn.
_TURN_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031


class Capture:
    """One stream of one attempt: in memory as long as it is short, then in a file of the spool."""

    def __init__(self, fd: int, path: str, pipes: Pipes) -> None:
        """``fd`` is a reading end of one of ``pipes``, ``path`` the file for what is too much."""
        self.fd = fd
        self.open = True
        self._pipes = pipes
        self._at_end = False
        self.size = 0
        self._path = path
        self._kept = b""
        self._tail = b""
        self._file = -1
        #: Why the file lacks what came after some point, e.g. a full disk.
        self.trouble = ""

    def read(self) -> bool:
        """Take what there is; False at the end of the stream. At most 1 MiB, so that others have their turn."""
        taken = 0
        while taken < _TURN_BYTES:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                self.open = False
                return False
            if not data:
                self.open, self._at_end = False, True
                return False
            taken += len(data)
            self._take(data)
        return True

    def drain(self) -> None:
        """Take everything that is still in the pipe."""
        before = -1
        while self.open and self.size != before:
            before = self.size
            self.read()

    def close(self) -> bytes:
        """Close the stream; return it as the queue keeps it: ``[SIZE PATH] LF`` and the bytes, or their two ends."""
        self._release()
        if self._file < 0:
            return b"\n" + self._kept if self.size else b""
        os.close(self._file)
        path = b"" if self.trouble else os.fsencode(self._path)
        return b"%d %b\n" % (self.size, path) + self._kept[:_HALF] + self._tail[-_HALF:]

    def discard(self) -> None:
        """Close the stream and keep nothing of it."""
        self._release()
        if self._file >= 0:
            os.close(self._file)
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _release(self) -> None:
        # A pipe that has been made larger is not kept: a user may only have so many of these.
        self._pipes.give(self.fd, self._at_end and self._file < 0)

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self._file < 0:
            if self.size <= INLINE_BYTES:
                self._kept += data
                return
            self._spill()
            data = self._kept + data
            self._kept = data[:_HALF]
        self._tail = (self._tail + data)[-_HALF:]
        self._write(data)

    def _spill(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(self._path, flags, 0o600)
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}"
            self._file = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        # A larger pipe: fewer turns for a task that writes a lot.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.fd, _F_SETPIPE_SZ, _TURN_BYTES)

    def _write(self, data: bytes) -> None:
        if self.trouble:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}"
