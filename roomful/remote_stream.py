"""A long-lived program on a host as two byte streams, for protocols of our own. Part of the SSH layer.

`HostConnection.execute` is for commands that end; this is for one that serves as long as the connection lasts.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence

import paramiko

from roomful.login_shell import command_line
from roomful.outcome import HostFailure
from roomful.ssh import HostConnection

#: Bytes received at a time.
CHUNK = 1 << 18


class RemoteStream:
    """The stdin and stdout of a program that runs on a host."""

    def __init__(self, connection: HostConnection, argv: Sequence[str]) -> None:
        """Start the program; raises HostFailure."""
        self.label = connection.entry.label
        connection.open()
        self._sending = threading.Lock()
        #: A few bytes that are to follow what is being sent.
        self._behind: deque[bytes] = deque()
        try:
            self._channel = connection.transport.open_session(timeout=connection.settings.login_timeout_seconds)
            self._channel.exec_command(command_line(argv))
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostFailure("lost", f"cannot start a program: {error}") from error

    def send(self, data: bytes) -> None:
        """Send all of ``data``; waits while the other side takes none. Raises HostFailure."""
        with self._sending:
            self._send(data)
        self._send_behind()

    def try_send(self, data: bytes) -> None:
        """Send a few bytes; if somebody is sending, that one sends them next, once each. Raises HostFailure."""
        if data not in self._behind:
            self._behind.append(data)
        self._send_behind()

    def _send_behind(self) -> None:
        # Whoever cannot have the lock leaves it to the one who has: that one looks once more after letting go of it.
        while self._behind and self._sending.acquire(blocking=False):
            try:
                self._send(self._behind.popleft())
            except IndexError:
                pass
            finally:
                self._sending.release()

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostFailure("lost", f"the connection broke: {str(error) or 'closed'}") from error

    def receive(self) -> bytes:
        """Wait for bytes; none: the stream has ended, with the program or with the connection."""
        try:
            return self._channel.recv(CHUNK)
        except (paramiko.SSHException, OSError, EOFError):
            return b""

    def end_input(self) -> None:
        """Close the program's stdin."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def close(self) -> None:
        """Let go of the program, whatever it does."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()

    def last_words(self) -> tuple[int, str]:
        """Return the ended program's exit code (-1: the connection broke) and the last line of its stderr."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            if self._channel.status_event.wait(1.0):
                text = b""
                while self._channel.recv_stderr_ready():
                    text = (text + self._channel.recv_stderr(CHUNK))[-4096:]
                lines = text.decode(errors="replace").strip().splitlines()
                return self._channel.exit_status, lines[-1] if lines else ""
        return -1, ""
