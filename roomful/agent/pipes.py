"""Pipes for what tasks write. Making and freeing a pair for each task took a fifth of the agent's time."""

from __future__ import annotations

import os

#: As many are kept for later.
MOST_KEPT = 64


class Pipes:
    """Pipes that are used again, once the kernel has said that nobody can write to them any more."""

    def __init__(self) -> None:
        self._free: list[int] = []

    def take(self) -> tuple[int, int]:
        """Return a reading end, which does not block, and a writing end; the caller closes the latter."""
        while self._free:
            reading = self._free.pop()
            try:
                # A new writing end of the same pipe.
                return reading, os.open(f"/proc/self/fd/{reading}", os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                os.close(reading)
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        return reading, writing

    def give(self, reading: int, at_end: bool) -> None:
        """Take a reading end back; ``at_end`` says that reading it has found the end of the stream.

        Only then has every writing end been closed, also those that were handed to processes of others (as ``tmux``
        and shared ``ssh`` connections do), and nobody can write into the next task's output.
        """
        if at_end and len(self._free) < MOST_KEPT:
            self._free.append(reading)
        else:
            os.close(reading)
