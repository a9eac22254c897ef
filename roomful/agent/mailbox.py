"""What other threads and signal handlers tell the worker, and the pipe that wakes it for that."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import deque
from typing import Any, Iterator


class Mailbox:
    """Letters of a kind and a value, in the order in which they came; ``fd`` is readable when one may have come."""

    def __init__(self) -> None:
        self._letters: deque[tuple[str, Any]] = deque()
        self.fd, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __bool__(self) -> bool:
        return bool(self._letters)

    def wake_on_signals(self) -> None:
        """Have every signal that has a handler make ``fd`` readable; for the main thread."""
        signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)

    def drop(self, kind: str, value: Any = None) -> None:
        """Leave a letter without ringing: for the worker itself, and for handlers of signals."""
        self._letters.append((kind, value))

    def post(self, kind: str, value: Any = None) -> None:
        """Leave a letter and wake the worker; from any thread."""
        self._letters.append((kind, value))
        # A full pipe wakes it as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"\0")

    def hush(self) -> None:
        """Empty the pipe."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.fd, 4096)) == 4096:
                pass

    def take(self) -> Iterator[tuple[str, Any]]:
        """Go through the letters, also those that come meanwhile."""
        while self._letters:
            yield self._letters.popleft()


def children_fd() -> int:
    """Return a descriptor that is readable when a child has ended; -1 where the system has no such thing.

    For the main thread, once every other thread blocks SIGCHLD. A handler, even an empty one, costs Python an
    interrupted call and a second one for each child.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "signalfd"):
        return -1
    # As sigset_t, which no system makes larger than this.
    numbers = ctypes.create_string_buffer(128)
    libc.sigemptyset(numbers)
    libc.sigaddset(numbers, int(signal.SIGCHLD))
    # On Linux, O_NONBLOCK and O_CLOEXEC are SFD_NONBLOCK and SFD_CLOEXEC.
    fd = int(libc.signalfd(-1, numbers, os.O_NONBLOCK | os.O_CLOEXEC))
    if fd >= 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    return fd
