"""What a command's lines can be given to."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import IO, Any

from roomful.errors import InputError
from roomful.experiments.errors import ExperimentFailed
from roomful.experiments.logs import CONSOLE, logger
from roomful.experiments.session import Session, current


class Console:
    """Write each line to the log, as ``fmt % line``."""

    def __init__(self, fmt: str = "%s") -> None:
        try:
            _ = fmt % "line"
        except (TypeError, ValueError) as error:
            raise InputError(f"bad format {fmt!r}", where="Console", why=str(error), fix="write one %s") from error
        self.fmt = fmt

    def __call__(self, line: str) -> None:
        """Take a line."""
        logger.log(CONSOLE, "%s", self.fmt % line.rstrip())


class File:
    """Write each line to a file here, byte for byte as it came."""

    def __init__(
        self, path: str | os.PathLike[str], *parts: str | os.PathLike[str], append: bool = False, flush: bool = False
    ) -> None:
        self.path = os.path.join(path, *parts)
        self._flush = flush
        self.file: IO[str] | None = None
        try:
            self.file = open(  # noqa: SIM115  # it stays open as long as lines come
                self.path, "a" if append else "w", encoding="utf-8", errors="surrogateescape", newline=""
            )
        except OSError as error:
            raise InputError("cannot write the file", where=self.path, why=error.strerror or str(error)) from error

    def __call__(self, line: str) -> None:
        """Take a line."""
        assert self.file
        self.file.write(line)
        if self._flush:
            self.file.flush()

    def flush(self) -> None:
        """Write to the file what is still held back."""
        if self.file and not self.file.closed:
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file:
            self.file.close()

    def __del__(self) -> None:
        # Nobody is left to hear of an error.
        with contextlib.suppress(Exception):
            self.close()


class SubstrMatcher:
    """Wait until a command prints a text: ``run_cmd(..., stdout=ready)``, ``ready.wait()``."""

    def __init__(self, substr: str) -> None:
        self.substr = substr
        self._session: Session | None = None
        self._commands = 0
        self._over = False
        self._matched = threading.Event()

    def __call__(self, line: str) -> None:
        """Take a line."""
        if not self._matched.is_set() and self.substr in line:
            self._matched.set()
            if self._session:
                self._session.notify()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a line with the text; False after ``timeout`` seconds without one.

        Raises ExperimentFailed when the command ends without having printed it.
        """
        session = self._session or current()
        if session is None:
            return self._matched.wait(timeout)
        came = session.wait_for(lambda: self._matched.is_set() or (self._over and not self._commands), timeout)
        if came and not self._matched.is_set():
            raise ExperimentFailed(f"the command ended and never printed {self.substr!r}")
        return came

    def matched(self) -> bool:
        """Tell whether the text has been printed."""
        return self._matched.is_set()

    def reset(self) -> None:
        """Forget what was printed, to wait for the next time."""
        self._matched.clear()

    def _attached(self, session: Session) -> None:
        self._session = session
        self._commands += 1

    def _detached(self, _: Session) -> None:
        self._commands -= 1
        self._over = True


class EnvParser:
    """Take ``NAME=value`` lines apart: ``parser["NAME"]``, ``parser.NAME``."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def __call__(self, line: str) -> None:
        """Take a line; one without ``=`` says nothing."""
        name, equals, value = line.partition("=")
        if equals:
            self._values[name] = value.rstrip()

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"no line {name}=... was printed") from None
