"""How many hosts exchange keys and log in at the same time: work for both ends, unless one does not answer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

#: A handshake that has taken this long is waiting for its host, not for a processor: it counts no more.
BUSY_SECONDS = 0.5


class Handshakes:
    """Lets ``limit`` handshakes go on at a time, not counting those whose hosts keep everybody waiting."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._begun: dict[object, float] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, and hold it during the block or for BUSY_SECONDS."""
        me = object()
        with self._changed:
            while (seconds := self._until_free()) > 0:
                self._changed.wait(seconds)
            self._begun[me] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._begun.pop(me, None)
                self._changed.notify()

    def _until_free(self) -> float:
        """Return how many seconds it takes until a slot is free at the latest; 0: one is."""
        if len(self._begun) < self._limit:
            return 0.0
        old = time.monotonic() - BUSY_SECONDS
        for key, begun in tuple(self._begun.items()):
            # In the order in which they began.
            if begun > old:
                break
            del self._begun[key]
        if len(self._begun) < self._limit:
            return 0.0
        return max(0.001, next(iter(self._begun.values())) - old)
