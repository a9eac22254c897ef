"""The standard streams that a task finds: each there, and none that forgets what it could not write at once."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, Any


def prepare() -> None:
    """Mend the streams of this process; does nothing to streams that are as usual."""
    # In the order of their numbers: the lowest that is free is taken.
    sys.stdin = _there(sys.stdin, "r")
    sys.stdout = _lenient(_whole(_there(sys.stdout, "w")))
    sys.stderr = _lenient(_whole(_there(sys.stderr, "w")))


def _there(stream: Any, mode: str) -> Any:
    """Open a stream that the caller has closed (``>&-``), or the next file that is opened would get its bytes."""
    if stream is not None:
        return stream
    opened: IO[Any] = open(os.devnull, mode)  # noqa: SIM115  # it stays open
    # For the programs that we start.
    os.set_inheritable(opened.fileno(), True)
    return opened


def _whole(stream: Any) -> Any:
    """Give a stream of a Python without buffers (PYTHONUNBUFFERED) one.

    Without one, it takes what one call of the system takes: a part only, where Ctrl-Z comes or the reader leaves.
    """
    own = stream in (sys.__stdout__, sys.__stderr__)
    if not (own and isinstance(stream.buffer, io.RawIOBase)):
        return stream
    encoding, errors = stream.encoding, stream.errors
    return io.TextIOWrapper(io.BufferedWriter(stream.detach()), encoding, errors, line_buffering=True)


def _lenient(stream: Any) -> Any:
    """Let no letter that an encoding lacks be an error when all is done."""
    if stream.errors == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def give_up_stdout() -> None:
    """Let what is still in the buffer of stdout go nowhere, so that Python does not try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
