"""The log of a run: one logger, and levels of its own for what experiments and their commands say."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from roomful.errors import InputError

#: Above every level of logging's own: these lines are never filtered.
RUN, CONTROL, LOG, CONSOLE = 97, 98, 99, 100

logging.addLevelName(RUN, "RUN")
logging.addLevelName(CONTROL, "CONTROL")
logging.addLevelName(LOG, "LOG")
logging.addLevelName(CONSOLE, "CONSOLE")

logger = logging.getLogger("roomful.experiments")


def log(message: object) -> None:
    """Write a line to the log."""
    logger.log(LOG, "%s", message)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # of whatever stderr is
    """Write to whatever stderr is at the moment: a progress bar puts something in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stderr
        super().emit(record)


@contextlib.contextmanager
def to_stderr(file: str = "", verbose: bool = False) -> Iterator[None]:
    """Write the log to stderr, every command's start and end if ``verbose``, and all of it to ``file``.

    Raises InputError for a file that cannot be written.
    """
    handlers: list[logging.Handler] = [_Stderr()]
    handlers[0].setLevel(logging.INFO if verbose else logging.WARNING)
    if file:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise InputError("cannot write the log", where=file, why=error.strerror or str(error)) from error
    form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    before = (logger.level, logger.propagate)
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
