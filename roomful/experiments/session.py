"""One attempt of one experiment: its commands, the thread that calls its handlers, and what ends it early."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from roomful.experiments.clock import Clock
from roomful.experiments.errors import ExperimentFailed
from roomful.experiments.logs import logger
from roomful.multiplex import HostCommands

if TYPE_CHECKING:
    from roomful.experiments.command import Command

#: Commands that are still there when an experiment ends must be gone within this time, in seconds.
KILL_SECONDS = 6.0

#: Takes a row of results, and the file that it was written to.
Record = Callable[[dict[str, str], str | None], None]

_current: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session | None:
    """Return the session of the experiment that runs in this thread."""
    return _current.get()


def leave() -> None:
    """Let this thread have no session any more."""
    _current.set(None)


class Session:
    """What an experiment does between its start and its end."""

    def __init__(
        self,
        hosts: Mapping[str, HostCommands],
        raise_on_rc: bool = True,
        record: Record | None = None,
    ) -> None:
        """``hosts``: connections by server id. ``record``: takes each row of results and its file, if any."""
        self.hosts = hosts
        self.raise_on_rc = raise_on_rc
        self.record: Record = record or _forget
        self.clock = Clock()
        #: Told whenever something happens that somebody may wait for.
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        #: Every handler that a command was given, by identity.
        self.handlers: dict[int, Any] = {}
        #: What could not be ended on the servers; known after `end`.
        self.left: list[str] = []
        self._commands: list[Command] = []
        self._prune_at = 64
        self._ended = False
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None

    def add(self, command: Command) -> None:
        """Take a command into the session, unless that has ended."""
        with self.changed:
            if self.failure:
                raise self.failure
            if self._ended:
                raise ExperimentFailed("the experiment has ended", fix="run commands before its function returns")
            if len(self._commands) >= self._prune_at:
                self._commands = [known for known in self._commands if not known.gone(0)]
                self._prune_at = 2 * len(self._commands) + 64
            self._commands.append(command)

    def enter(self) -> None:
        """Make this the session of the calling thread."""
        _current.set(self)

    def call_soon(self, action: Callable[[], None]) -> None:
        """Do something in the handlers' thread, after what was asked for before."""
        if self._caller is None:
            with self.changed:
                if self._caller is None:
                    self._caller = threading.Thread(target=self._call, daemon=True, name="handlers")
                    self._caller.start()
        self._calls.put(action)

    def _call(self) -> None:
        self.enter()
        while True:
            action = self._calls.get()
            if action is None:
                return
            try:
                action()
            except ExperimentFailed as error:
                self.abort(error)
            except Exception as error:
                text = "".join(traceback.format_exception(error)).rstrip()
                logger.error("a handler failed\n%s", text)
                why = f"{type(error).__name__}: {error}"
                self.abort(ExperimentFailed("a handler failed", why=why, fix="its traceback is in the log"))

    def notify(self) -> None:
        """Wake everybody who waits."""
        with self.changed:
            self.changed.notify_all()

    def abort(self, failure: BaseException) -> None:
        """End the experiment: kill its commands, and raise ``failure`` from whatever it waits for or calls next."""
        with self.changed:
            if self.failure or self._ended:
                return
            self.failure = failure
            commands = list(self._commands)
            self.changed.notify_all()
        for command in commands:
            command.end()

    def wait_for(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until ``ready()``; False when that takes too long. Raises what `abort` was given."""
        if threading.current_thread() is self._caller:
            raise ExperimentFailed("a handler cannot wait", fix="wait in the experiment's own function")
        deadline = None if seconds is None else time.monotonic() + seconds
        with self.changed:
            while True:
                if self.failure:
                    raise self.failure
                if ready():
                    return True
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                self.changed.wait(None if remaining is None else min(remaining, threading.TIMEOUT_MAX))

    @property
    def in_handler(self) -> bool:
        """Whether the calling thread is the one that calls handlers."""
        return threading.current_thread() is self._caller

    def end(self) -> None:
        """Kill what still runs, let the handlers finish, and wait until nothing is left on the hosts."""
        with self.changed:
            self._ended = True
            commands = list(self._commands)
        self.clock.stop()
        for command in commands:
            command.end()
        deadline = time.monotonic() + KILL_SECONDS
        for command in commands:
            if not command.gone(max(0.0, deadline - time.monotonic())):
                self.left.append(f"{command.server}: still there after {KILL_SECONDS:g} s: {command}")
            elif command.left:
                self.left.append(f"{command.server}: {command.left}")
        for line in self.left:
            logger.error("%s", line)
        if self._caller:
            self._calls.put(None)
            self._caller.join(max(1.0, deadline - time.monotonic()))
        for handler in self.handlers.values():
            flush = getattr(handler, "flush", None)
            if callable(flush):
                flush()


def _forget(row: dict[str, str], path: str | None) -> None:
    del row, path
