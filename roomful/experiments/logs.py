"""The log of a run: one logger, and levels of its own for what experiments and their commands say."""

from __future__ import annotations

import logging

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
