"""What an experiment may return, and what a command may return instead of an exit code."""

from __future__ import annotations

from enum import Enum


class Action(Enum):
    """What an experiment function returns to ask for something."""

    RESTART = 1


class ReturnCode(Enum):
    """What ``wait()`` returns where there is no exit code."""

    TIMEOUT = 1
