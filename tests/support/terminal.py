"""The screen of a program that a test runs on a terminal of its own."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable


def read_all(terminal: int, until: Callable[[bytes], bool] = lambda _: False, seconds: float = 15.0) -> bytes:
    """Return what appears until the program has ended, or what has appeared is enough."""
    screen, deadline = b"", time.monotonic() + seconds
    while not until(screen) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:
                break
            if not chunk:
                break
            screen += chunk
    return screen
