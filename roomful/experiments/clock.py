"""Actions at a later time, in one thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Clock:
    """Call actions when their time has come; they must not wait. Its thread starts with the first one."""

    def __init__(self) -> None:
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` in so many seconds; those for the same moment in the order they came."""
        with self._changed:
            heapq.heappush(self._actions, (time.monotonic() + seconds, next(self._numbers), action))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="clock")
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Forget what has not happened yet."""
        with self._changed:
            self._stopped = True
            self._actions.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._actions or self._actions[0][0] > time.monotonic()):
                    wait = self._actions[0][0] - time.monotonic() if self._actions else threading.TIMEOUT_MAX
                    # A time-out may be infinite.
                    self._changed.wait(min(max(0.0, wait), threading.TIMEOUT_MAX))
                if self._stopped:
                    return
                _, _, action = heapq.heappop(self._actions)
            action()
