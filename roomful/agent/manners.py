"""What a guest on somebody's computer does: runs behind its owners, and stands back while they are there."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform

from roomful.agent import console, host
from roomful.agent.tuning import Tuning

#: Seconds over which the kernel smooths its first load average.
LOAD_SECONDS = 60.0
#: How often the console is looked at.
CONSOLE_SECONDS = 1.0
#: ioprio_set(2) has another number on each machine; on others than these, disk traffic keeps its class.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}.get(platform.machine())
_WHO_PROCESS = 1
_CLASS_SHIFT, _CLASS_NONE, _CLASS_IDLE = 13, 0, 3


class Manners:
    """How the settings ``nice``, ``max_load`` and ``while_idle`` are followed on this host."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._disk_class = _CLASS_NONE
        self._session_nice = 0
        self._own_load = 0.0
        self._others_load = 0.0
        self._looked = 0.0
        self._looked_at_console = -CONSOLE_SECONDS
        self._at_console = ""

    def look(self, now: float, own_cpus: float) -> None:
        """Measure; ``own_cpus`` is what our running tasks may keep busy."""
        # Smoothed as the kernel smooths its own, so that our part of that can be told from the others'.
        kept = math.exp(-(now - self._looked) / LOAD_SECONDS) if self._looked else 0.0
        self._own_load = self._own_load * kept + own_cpus * (1 - kept)
        self._looked = now
        self._others_load = max(0.0, host.load() - self._own_load) if self._tuning["max_load"] else 0.0
        if not self._tuning["while_idle"]:
            self._at_console = ""
        elif now - self._looked_at_console >= CONSOLE_SECONDS:
            self._looked_at_console = now
            self._at_console = ", ".join(sorted(console.others()))
        self._follow_disk_class()
        self._follow_session()

    def refusal(self) -> str:
        """Say why no task may start now; empty: it may."""
        if self._at_console:
            return f"{self._at_console} at the console"
        most = self._tuning["max_load"]
        return f"others load the host by {self._others_load:.1f}" if most and self._others_load > most else ""

    @property
    def suspends(self) -> bool:
        """Whether running tasks stand still."""
        return bool(self._at_console)

    def lower(self, group: int) -> None:
        """Give a task that has just started its niceness; all that it starts inherits it.

        From here, a moment after its start, because this thread could not take back a niceness of its own.
        """
        nice = int(self._tuning["nice"])
        if nice:
            # Refused where we are nicer ourselves already; gone where it was very short.
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpriority(os.PRIO_PGRP, group, nice)

    def _follow_disk_class(self) -> None:
        """Set the I/O class of this thread, which tasks inherit; its own traffic is their output."""
        wanted = _CLASS_IDLE if self._tuning["nice"] else _CLASS_NONE
        if wanted != self._disk_class and _IOPRIO_SET is not None:
            self._disk_class = wanted
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).syscall(_IOPRIO_SET, _WHO_PROCESS, 0, wanted << _CLASS_SHIFT)

    def _follow_session(self) -> None:
        """Set the niceness of our session, in which all tasks run.

        Where the kernel shares a CPU between sessions first (sched(7), autogroup), a process's own niceness counts
        only within its session: without this a nice task of ours would take as much as all that the owner runs.
        """
        nice = int(self._tuning["nice"])
        if nice == self._session_nice or not _session_is_ours():
            return
        try:
            with open("/proc/self/autogroup", "w") as file:
                file.write(str(nice))
        except BlockingIOError:
            return  # another process has just done the same; ours is heard at the next look
        except OSError:
            pass  # no such thing here
        self._session_nice = nice


def _session_is_ours() -> bool:
    """Whether no one else is in our session: its leader has ended, as when an agent detaches itself."""
    try:
        os.kill(os.getsid(0), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
