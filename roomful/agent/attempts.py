"""The attempts on this host: started, read along with, collected when they end, and let go when nothing is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from typing import Iterator, Mapping

from roomful.agent.attempt import Attempt, Claimed
from roomful.agent.capture import Capture
from roomful.agent.orphans import Orphans
from roomful.agent.pipes import Pipes
from roomful.agent.shortage import FileLimit
from roomful.agent.spool import Spool

#: A task's streams are watched from this age on: many tasks have ended by then, and are read once.
YOUNG_SECONDS = 0.02
#: What is left of a task that cannot be killed keeps its slot for this long.
STUCK_SECONDS = 5.0


class Attempts:
    """Those that run, by the pid of their first process, and those whose first process is gone."""

    def __init__(self, environment: Mapping[bytes, bytes], workdir: str, spool: Spool, epoll: select.epoll) -> None:
        self._environment = environment
        self._workdir = workdir
        self._spool = spool
        self._epoll = epoll
        self._pipes = Pipes()
        self._files = FileLimit()
        self.running: dict[int, Attempt] = {}
        #: First process gone, survivors being killed.
        self.closing: list[Attempt] = []
        self._streams: dict[int, Capture] = {}
        #: Started within YOUNG_SECONDS, oldest first: their streams are not watched yet.
        self._young: deque[Attempt] = deque()
        self.orphans = Orphans()

    def __iter__(self) -> Iterator[Attempt]:
        return iter([*self.running.values(), *self.closing])

    def __len__(self) -> int:
        return len(self.running) + len(self.closing)

    @property
    def next_look(self) -> float | None:
        """When the next streams are to be watched."""
        return self._young[0].started + YOUNG_SECONDS if self._young else None

    def start(self, claimed: Claimed, slot: int) -> Attempt:
        """Start one; raises OSError or ValueError if it cannot be started."""
        base = self._spool.base(claimed.task_id, claimed.attempt)
        attempt = Attempt(claimed, slot, self._environment, self._workdir, base, self._pipes)
        self._files.lower(attempt.pid)
        self.running[attempt.pid] = attempt
        self._young.append(attempt)
        return attempt

    def watch_streams(self, now: float) -> None:
        """Read along with tasks that are not about to end."""
        while self._young and (self._young[0].ended or now - self._young[0].started >= YOUNG_SECONDS):
            attempt = self._young.popleft()
            if attempt.ended:
                continue
            for capture in (attempt.stdout, attempt.stderr):
                self._streams[capture.fd] = capture
                self._epoll.register(capture.fd, select.EPOLLIN)

    def read(self, fd: int) -> None:
        """Take what a stream has."""
        capture = self._streams.get(fd)
        if capture is not None and not capture.read():
            self._epoll.unregister(fd)
            del self._streams[fd]

    def reap(self) -> list[Attempt]:
        """Collect children that have ended, tasks' first processes and orphans; return those to let go."""
        ended = False
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if info is None:
                break
            attempt = self.running.get(info.si_pid)
            if attempt is None:
                os.waitpid(info.si_pid, 0)
                continue
            # Its pid is still its own, so its group is too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(attempt.pid, signal.SIGKILL)
            _, status, usage = os.wait4(attempt.pid, 0)
            attempt.collected(status, usage)
            del self.running[attempt.pid]
            self.closing.append(attempt)
            ended = True
        return self._let_go() if ended or self.closing else []

    def _let_go(self) -> list[Attempt]:
        """Take out those of which nothing is left."""
        survivors = self.orphans.of_ended(self.running, self.closing)
        gone: list[Attempt] = []
        still: list[Attempt] = []
        for attempt in self.closing:
            stays = attempt.pid in survivors and time.monotonic() - attempt.ended < STUCK_SECONDS
            (still if stays else gone).append(attempt)
        self.closing = still
        return gone

    def drain(self, attempt: Attempt) -> None:
        """Take what is still in the streams of one that was let go."""
        for capture in (attempt.stdout, attempt.stderr):
            if self._streams.pop(capture.fd, None) is not None:
                self._epoll.unregister(capture.fd)
            capture.drain()

    def sweep(self) -> None:
        """Kill what was overlooked before: the kernel's list may lack some while others end."""
        self.orphans.of_ended(self.running, self.closing)
