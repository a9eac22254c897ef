"""One process on a host, as the controller sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from roomful.outcome import HostFailure
from roomful.remote import frames

#: Bytes of a stream that may wait here, unread, before the program there has to wait.
ALLOWANCE = 1 << 20

STDOUT, STDERR = 1, 2


@dataclass(frozen=True)
class Launch:
    """What to start: a shell's command line (text) or an argv, where, and with what changes to the environment.

    ``cwd``: ``~`` and relative paths start at the account's home. ``env``: None removes a name. ``line_buffered``
    makes programs with C's stdio, and Python, write line by line; ``terminal`` gives any program a terminal as
    stdout, in raw mode. ``stdin`` and ``stdout``: False for /dev/null. ``joined``: stderr goes the way of stdout, so
    that their order stays as it was. ``umask``: None for the account's. ``visit``: folders whose state must not be a
    memory of the host's when the command starts, and names in them that count most (`roomful.remote.visit`).
    """

    command: str | Sequence[str]
    cwd: str = ""
    env: Mapping[str, str | None] = field(default_factory=dict)
    line_buffered: bool = False
    terminal: bool = False
    stdin: bool = True
    stdout: bool = True
    joined: bool = False
    umask: int | None = None
    visit: tuple[Sequence[str], Sequence[str]] | None = None

    def document(self) -> dict[str, Any]:
        """Return it as the payload of START."""
        what = {"shell": self.command} if isinstance(self.command, str) else {"argv": list(self.command)}
        return {
            **what,
            "cwd": self.cwd,
            "env": dict(self.env),
            "line_buffered": self.line_buffered,
            "terminal": self.terminal,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "joined": self.joined,
            "umask": self.umask,
            "visit": self.visit,
            "allowance": [ALLOWANCE, ALLOWANCE],
        }


class Listener(Protocol):
    """Who is told about a process, from the thread that reads the connection: must neither wait nor take long."""

    #: Set before anything else happens.
    process: RemoteProcess

    def started(self, pid: int) -> None:
        """The process runs."""

    def received(self, stream: int, data: bytes) -> None:
        """It wrote to STDOUT or STDERR; grant what was consumed. Empty: the stream is at its end."""

    def ended(self, status: int | None, failure: HostFailure | None) -> None:
        """It has ended and both streams are at their ends; ``failure``: it never started, or was lost."""


class RemoteProcess:
    """A process that a launcher started; made by `HostCommands.start`."""

    def __init__(self, number: int, listener: Listener, send: Callable[[int, int, bytes], None]) -> None:
        self.number = number
        self.pid = 0
        self.status: int | None = None
        self.failure: HostFailure | None = None
        self.ended = threading.Event()
        #: Set when nothing of its tree is left.
        self.gone = threading.Event()
        #: Which of its processes could not be ended, and why.
        self.left = ""
        self._listener = listener
        listener.process = self
        self._send = send
        self._open = {STDOUT, STDERR}
        self._exited = False
        self._consumed = {STDOUT: 0, STDERR: 0}
        self._allowance = frames.INPUT_ALLOWANCE
        self._waiting = bytearray()
        self._closing = False
        self._deaf = False
        self._input = threading.Condition()

    # --- what the user of a process calls, from any thread ---

    def write(self, data: bytes, wait: bool = True) -> bool:
        """Send bytes to its stdin; ``wait`` until they are on their way. False: it takes no input any more."""
        with self._input:
            if self._deaf or self._closing:
                return False
            self._waiting += data
            self._pump()
            while wait and self._waiting and not self._deaf:
                self._input.wait()
            return not self._deaf

    def close_stdin(self) -> None:
        """Close its stdin once all that was written has been sent."""
        with self._input:
            self._closing = True
            self._pump()

    def signal(self, number: int) -> None:
        """Send a signal to its process group."""
        self._send(frames.SIGNAL, self.number, bytes([number]))

    def kill(self) -> None:
        """End its whole process tree; ``gone`` tells when that is done."""
        self._send(frames.KILL, self.number, b"")

    def grant(self, stream: int, count: int) -> None:
        """Say that ``count`` received bytes of a stream have been dealt with: so many more may come."""
        self._consumed[stream] += count
        if self._consumed[stream] >= ALLOWANCE // 4 and stream in self._open:
            more, self._consumed[stream] = self._consumed[stream], 0
            self._send(frames.CREDIT, self.number, frames.STREAM_CREDIT.pack(stream, more))

    # --- what the connection's reader calls ---

    def take(self, kind: int, payload: bytes, about: Callable[[bytes], Any]) -> None:
        """Deal with one frame from the host."""
        if kind in (frames.OUTPUT, frames.ERRORS):
            stream = STDOUT if kind == frames.OUTPUT else STDERR
            if not payload:
                self._open.discard(stream)
            self._listener.received(stream, payload)
            self._end_if_over()
        elif kind == frames.STARTED:
            self.pid = int(about(payload)["pid"])
            self._listener.started(self.pid)
        elif kind == frames.EXITED:
            self.status = frames.STATUS.unpack(payload)[0]
            self._exited = True
            self._end_if_over()
        elif kind == frames.CREDIT:
            with self._input:
                self._allowance += frames.INPUT_CREDIT.unpack(payload)[0]
                self._pump()
        elif kind == frames.DEAF:
            self._stop_input()
        elif kind == frames.GONE:
            self.gone.set()
        elif kind == frames.FAILED:
            error = str(about(payload)["error"])
            self.left = error if self.pid else ""
            self.lose(HostFailure("error", error))

    def lose(self, failure: HostFailure) -> None:
        """End it because it never started, or because the connection is lost."""
        self._stop_input()
        if not self.ended.is_set():
            self.failure = failure
            self._finish()
        self.gone.set()

    def without(self, stream: int) -> None:
        """Expect nothing from STDOUT or STDERR."""
        self._open.discard(stream)

    def _end_if_over(self) -> None:
        if self._exited and not self._open and not self.ended.is_set():
            self._finish()

    def _finish(self) -> None:
        self._listener.ended(self.status, self.failure)
        self.ended.set()

    def _stop_input(self) -> None:
        with self._input:
            self._deaf = True
            self._waiting.clear()
            self._input.notify_all()

    def _pump(self) -> None:
        """Send what the allowance lets through; the lock is held."""
        while self._waiting and self._allowance > 0 and not self._deaf:
            part = bytes(self._waiting[: min(self._allowance, 1 << 16)])
            del self._waiting[: len(part)]
            self._allowance -= len(part)
            self._send(frames.INPUT, self.number, part)
        if not self._waiting:
            if self._closing and not self._deaf:
                self._deaf = True
                self._send(frames.INPUT, self.number, b"")
            self._input.notify_all()
