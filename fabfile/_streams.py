"""Standard streams that are closed or full: what reads and writes them need not know."""

from __future__ import annotations

import contextlib
import os
import sys


def fill_gaps() -> None:
    """Put an empty stream where one of the three was closed (``<&-``), also for the programs that we start."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number is that of the stream.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as we run


def give_up_stdout() -> None:
    """Throw away what could not be written, so that Python does not try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
