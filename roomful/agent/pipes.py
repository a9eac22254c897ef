"""Pipes for what tasks write. Making and freeing a pair for each task took a fifth of the agent's time."""

from __future__ import annotations

import errno
import os
import resource

#: As many are kept for later.
MOST_KEPT = 64
#: Descriptors that are left to the agent: it could not even look at its host without one.
SPARE_FILES = 16


class Pipes:
    """Pipes that are used again, once the kernel has said that nobody can write to them any more."""

    def __init__(self) -> None:
        self._free: list[int] = []
        #: How many are in use, each of which may need a file besides.
        self._used = 0

    def take(self) -> tuple[int, int]:
        """Return a reading end, which does not block, and a writing end; the caller closes the latter.

        Raises OSError where the limit of open files would be too near.
        """
        reading, writing = self._again() or _new()
        if writing + self._used + SPARE_FILES >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 0:
            os.close(reading)
            os.close(writing)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._used += 1
        return reading, writing

    def _again(self) -> tuple[int, int] | None:
        while self._free:
            reading = self._free.pop()
            try:
                # A new writing end of the same pipe.
                return reading, os.open(f"/proc/self/fd/{reading}", os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                os.close(reading)
        return None

    def give(self, reading: int, at_end: bool) -> None:
        """Take a reading end back; ``at_end`` says that reading it has found the end of the stream.

        Only then has every writing end been closed, also those that were handed to processes of others (as ``tmux``
        and shared ``ssh`` connections do), and nobody can write into the next task's output.
        """
        self._used -= 1
        if at_end and len(self._free) < MOST_KEPT:
            self._free.append(reading)
        else:
            os.close(reading)


def _new() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing
