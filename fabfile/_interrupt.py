"""Ctrl-C before a task begins and after it has ended: one line and exit code 130, as within one.

Invoke would exit with 1, and Python print where it was importing something.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


def _end(*_: object) -> None:
    # Nothing is under way. Not an exception: it would have to get through imports and Invoke.
    os.write(2, b"inv: interrupted\n")
    os._exit(130)


def end_quietly() -> None:
    """Begin to end so, in ``inv``; where something else has imported the tasks, Ctrl-C is its own business."""
    if "invoke.main" in sys.modules and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def by_exception() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt within the block: a task may have something to clean up."""
    ours = signal.getsignal(signal.SIGINT) is _end
    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, _end)
