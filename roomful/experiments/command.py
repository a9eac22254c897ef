"""A command on a server, as an experiment sees it: what ``run_cmd`` returns."""

from __future__ import annotations

import io
import signal as signals
from collections.abc import Callable, Iterable
from typing import Any

from roomful.errors import InputError
from roomful.experiments.errors import CommandFailed, ExperimentFailed
from roomful.experiments.logs import logger
from roomful.experiments.outcomes import ReturnCode
from roomful.experiments.session import Session
from roomful.outcome import HostFailure
from roomful.remote_process import STDERR, STDOUT, Launch, RemoteProcess

#: Called with every line, its newline included.
Handler = Callable[[str], Any]
#: Longer lines are handed over in pieces of this many bytes.
LONGEST_LINE = 1 << 20


def handlers_of(value: object, name: str) -> tuple[Handler, ...]:
    """Return one handler or several as a tuple.

    Raises InputError for what cannot be called.
    """
    if value is None:
        return ()
    several = value if isinstance(value, Iterable) and not callable(value) else (value,)
    found = tuple(several)
    for handler in found:
        if not callable(handler):
            fix = "give a Console, File, CSVGenerator ..., or any function that takes a line"
            raise InputError(f"the {name} handler {handler!r} cannot be called", fix=fix)
    return found


class Lines:
    """Cut a stream of bytes into lines. Bytes that are not UTF-8 become surrogates, which ``File`` writes back."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterable[str]:
        """Take bytes, none at the end; return the lines that are complete."""
        if not data:
            whole, self._rest = self._rest, b""
        else:
            end = data.rfind(b"\n") + 1
            if not end and len(self._rest) + len(data) < LONGEST_LINE:
                self._rest += data
                return ()
            end = end or len(data)
            whole, self._rest = self._rest + data[:end], data[end:]
        # newline="\n": only that ends a line, as programs that print progress with "\r" expect.
        return io.StringIO(whole.decode("utf-8", "surrogateescape"), newline="\n")


class Command:
    """A command that was started. Its methods may be called from the experiment and from handlers."""

    process: RemoteProcess

    def __init__(
        self, session: Session, server: str, text: str, stdout: tuple[Handler, ...], stderr: tuple[Handler, ...]
    ) -> None:
        self.server = server
        self._session = session
        self._text = text
        self._handlers = {STDOUT: stdout, STDERR: stderr}
        self._lines = {STDOUT: Lines(), STDERR: Lines()}
        self._last_error = b""
        self._pid = 0
        self._result: int | ReturnCode | None = None
        self._over = False
        self._timed_out = False
        #: Signals that were sent on purpose: ending by one of them is no failure.
        self._expected: set[int] = set()

    def __repr__(self) -> str:
        return f"<Command {self._text!r} on {self.server}>"

    def launch(self, launch: Launch, timeout: float | None) -> None:
        """Start it."""
        self._session.add(self)
        for handler in (*self._handlers[STDOUT], *self._handlers[STDERR]):
            self._session.handlers[id(handler)] = handler
        self._tell_handlers("attached", self._session)
        self._session.hosts[self.server].start(launch, self)
        if timeout is not None:
            self._session.clock.after(timeout, self._time_out)

    # --- for experiments ---

    def wait(self, block: bool = True) -> int | ReturnCode | None:
        """Wait for its end and return the exit code, minus the signal that ended it, or ReturnCode.TIMEOUT.

        ``block=False`` returns at once, None while it runs.
        """
        if block:
            self._session.wait_for(lambda: self._over)
        elif self._session.failure:
            raise self._session.failure
        return self._result if self._over else None

    def kill(self) -> int | ReturnCode | None:
        """End it with its whole process tree and return what `wait` returns; from a handler: None, at once."""
        self._expected.add(signals.SIGKILL)
        self.process.kill()
        return None if self._session.in_handler else self.wait()

    def stdin(self, text: str | bytes, close: bool = False, delay: float | None = None) -> None:
        """Send text to its stdin, after ``delay`` seconds; ``close`` ends the input."""
        if delay:
            self._session.wait_for(lambda: False, delay)
        self._feed(text, close, wait=not self._session.in_handler)

    def async_stdin(self, text: str | bytes, close: bool = False, delay: float | None = None) -> None:
        """Send text to its stdin without waiting for it to be taken, or ``delay`` seconds from now."""
        if delay:
            self._session.clock.after(delay, lambda: self._feed(text, close, wait=False))
        else:
            self._feed(text, close, wait=False)

    def signal(self, sig: int | str, delay: float | None = None) -> None:
        """Send a signal (a number, ``signal.SIGINT``, ``"INT"``) to its process group."""
        number = signal_number(sig)
        if delay:
            self._session.wait_for(lambda: False, delay)
        self._send_signal(number)

    def async_signal(self, sig: int | str, delay: float | None = None) -> None:
        """Send a signal ``delay`` seconds from now."""
        number = signal_number(sig)
        self._session.clock.after(delay or 0.0, lambda: self._send_signal(number))

    @property
    def pid(self) -> int:
        """Its process id on the server; waits until it has one."""
        self._session.wait_for(lambda: bool(self._pid) or self._over)
        return self._pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._over

    def end(self) -> None:
        """Kill it because its experiment has ended."""
        self._expected.add(signals.SIGKILL)
        # The experiment may end in another thread, before this command was handed to its connection.
        if hasattr(self, "process"):
            self.process.kill()

    def gone(self, seconds: float) -> bool:
        """Whether the last process of its tree has ended, within so many seconds."""
        return not hasattr(self, "process") or self.process.gone.wait(seconds)

    @property
    def left(self) -> str:
        """Which of its processes could not be ended, and why; empty where all have."""
        return self.process.left if hasattr(self, "process") else ""

    def _send_signal(self, number: int) -> None:
        self._expected.add(number)
        self.process.signal(number)

    def _feed(self, text: str | bytes, close: bool, wait: bool) -> None:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        if data and not self.process.write(data, wait=wait) and not self._timed_out:
            logger.warning("%s: %r takes no input any more", self.server, self._text)
        if close:
            self.process.close_stdin()

    def _time_out(self) -> None:
        if not self._over:
            logger.warning("%s: TIMEOUT %r", self.server, self._text)
            self._timed_out = True
            self.process.kill()

    # --- for the connection: in its reader's thread ---

    def started(self, pid: int) -> None:
        """Note the process id."""
        self._pid = pid
        logger.info("%s: %r pid=%d", self.server, self._text, pid)
        self._session.notify()

    def received(self, stream: int, data: bytes) -> None:
        """Hand what it wrote to the handlers."""
        if stream == STDERR:
            self._last_error = (self._last_error + data)[-2000:]
        if self._handlers[stream]:
            self._session.call_soon(lambda: self._handle(stream, data))
        elif data:
            self.process.grant(stream, len(data))

    def ended(self, status: int | None, failure: HostFailure | None) -> None:
        """Note its end, after its last line has been handled."""
        if self._handlers[STDOUT] or self._handlers[STDERR]:
            self._session.call_soon(lambda: self._finish(status, failure))
        else:
            self._finish(status, failure)

    def _handle(self, stream: int, data: bytes) -> None:
        # After a failure nobody wants more; what still comes is read so that there is an end.
        handlers = () if self._session.failure else self._handlers[stream]
        try:
            lines = self._lines[stream].feed(data)
            if len(handlers) == 1:
                handle = handlers[0]
                for line in lines:
                    handle(line)
            else:
                for line in lines:
                    for handle in handlers:
                        handle(line)
        finally:
            if data:
                self.process.grant(stream, len(data))

    def _finish(self, status: int | None, failure: HostFailure | None) -> None:
        self._result = ReturnCode.TIMEOUT if self._timed_out else status
        self._tell_handlers("detached", self._session)
        if failure:
            what = f"{self._text!r} was lost" if self._pid else f"{self._text!r} did not start"
            self._session.abort(CommandFailed(what, where=self.server, why=failure.detail or failure.reason))
        else:
            logger.info("%s: %r ended with %s", self.server, self._text, self._result)
            if self._session.raise_on_rc and not self._forgiven(status):
                self._session.abort(self.failure())
        with self._session.changed:
            self._over = True
            self._session.changed.notify_all()

    def _forgiven(self, status: int | None) -> bool:
        # A shell turns the death of its child by signal N into 128 + N.
        expected = {code for number in self._expected for code in (-number, 128 + number)}
        return status == 0 or self._timed_out or status in expected

    def failure(self) -> CommandFailed:
        """Say how it failed, with the last line of its stderr."""
        lines = self._last_error.decode(errors="replace").strip().splitlines()
        how = "took too long" if self._timed_out else f"ended with {self._result}"
        return CommandFailed(f"{self._text!r} {how}", where=self.server, why=lines[-1].strip() if lines else "")

    def _tell_handlers(self, what: str, session: Session) -> None:
        for handler in (*self._handlers[STDOUT], *self._handlers[STDERR]):
            method = getattr(handler, f"_{what}", None)
            if method:
                method(session)


def signal_number(sig: int | str) -> int:
    """Return a signal's number.

    Raises InputError for what is none.
    """
    try:
        if isinstance(sig, str) and not sig.isdigit():
            name = sig.upper()
            return int(signals.Signals[name if name.startswith("SIG") else f"SIG{name}"])
        number = int(sig)
    except (KeyError, ValueError):
        number = 0
    if not 0 < number <= 64:
        raise InputError(f"no signal {sig!r}", fix="give a number from 1 to 64 or a name such as SIGINT")
    return number


__all__ = ["Command", "ExperimentFailed", "Handler", "Lines", "handlers_of", "signal_number"]
