"""How many bytes have gone out to all hosts, of those that go out at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Sent:
    """Adds up what several senders say of themselves, and tells ``on_bytes`` the sum."""

    def __init__(self, on_bytes: Callable[[int], None] | None = None) -> None:
        self._on_bytes = on_bytes
        self._total = 0
        self._lock = threading.Lock()

    def meter(self) -> Callable[[int], None] | None:
        """Return what a sender calls with the bytes that it has sent so far; None where nobody wants to know."""
        if self._on_bytes is None:
            return None
        before = 0

        def tell(count: int) -> None:
            nonlocal before
            with self._lock:
                self._total += max(0, count - before)
                before = max(before, count)
                if self._on_bytes:
                    self._on_bytes(self._total)

        return tell
