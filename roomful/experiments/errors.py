"""What ends an experiment early."""

from __future__ import annotations

from roomful.errors import RoomfulError


class ExperimentFailed(RoomfulError):
    """End the experiment as failed; the message says why."""


class CommandFailed(ExperimentFailed):
    """Report a command that ended with an exit code other than 0, never started, or was lost."""


class Interrupted(KeyboardInterrupt):
    """End an experiment that runs in another thread, because of Ctrl-C; no ``except Exception`` holds it."""
