"""Files that are complete or absent: written under another name, renamed when all of it is there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from types import TracebackType


class AtomicFile:
    """A new file at ``path``, which appears there at the end of the ``with`` block if nothing was raised in it.

    Its folder is made if need be; its mode is what the umask leaves. ``mtime_ms`` (milliseconds since 1970) becomes
    its time of modification.
    """

    def __init__(self, path: str | Path, mtime_ms: int | None = None) -> None:
        self.path = path
        self.mtime_ms = mtime_ms
        # The name of the final file is not part of it: that may have the 255 bytes that a name can have.
        # Text, because pathlib takes longer than the kernel does, and collect makes hundreds of thousands.
        self._temporary = os.path.join(os.path.dirname(path), f".roomful-{secrets.token_hex(6)}.tmp")
        try:
            self._fd = self._create()
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._fd = self._create()

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        """Let the file appear; on an error nothing is left of it."""
        try:
            if self.mtime_ms is not None:
                os.utime(self._fd, ns=(self.mtime_ms * 1_000_000, self.mtime_ms * 1_000_000))
            self._close()
            os.replace(self._temporary, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Leave nothing; safe to call at any time."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _create(self) -> int:
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def write_bytes(path: str | Path, data: bytes, mtime_ms: int | None = None) -> None:
    """Write a whole file atomically; raises OSError."""
    with AtomicFile(path, mtime_ms) as file:
        file.write(data)
