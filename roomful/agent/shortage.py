"""What the host lacks when a task is to start: a matter of the host's, for which no task fails."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time

log = logging.getLogger("roomful.agent")

#: No process, no memory, no descriptor to be had.
_LACKING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
#: After this, or once a task of ours has ended, it is tried again.
PATIENCE_SECONDS = 10.0
#: The log says it no more often than this.
LOG_SECONDS = 60.0
#: Descriptors that the agent asks for at most.
MOST_FILES = 1 << 16


class Shortage:
    """Remembers why no task could start here, so that the tasks go elsewhere instead of failing one by one."""

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._why = ""
        self._until = self._next_log = 0.0

    def noticed(self, error: Exception) -> bool:
        """Tell whether a task's start failed for the host's sake."""
        now = time.monotonic()
        if isinstance(error, OSError) and error.errno in _LACKING:
            self._why, self._until = f"cannot start tasks: {error.strerror}", now + PATIENCE_SECONDS
        else:
            self._why = self._workdir_is_lost()
        if self._why and now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            log.warning("%s", self._why)
        return bool(self._why)

    def eased(self) -> None:
        """Note that a task of ours has ended: there may be room again."""
        self._until = 0.0

    def refusal(self) -> str:
        """Say why no task may start now; empty: it may."""
        if self._why and time.monotonic() >= self._until:
            self._why = self._workdir_is_lost()
        return self._why

    def _workdir_is_lost(self) -> str:
        try:
            os.stat(os.path.join(self._workdir, ""))
        except OSError as error:
            return f"cannot start tasks: workdir {self._workdir}: {error.strerror}"
        return ""


class FileLimit:
    """Lets the agent open as many files as it may, which are several a task, and tasks have the limit as it was."""

    def __init__(self) -> None:
        self._tasks = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft, hard = self._tasks
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        self._raised = False
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                self._raised = True

    def lower(self, pid: int) -> None:
        """Give a task that has just started the limit that we were started with."""
        if self._raised:
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, self._tasks)
