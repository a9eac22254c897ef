"""The dispatcher's side of what `roomful.dsh` speaks: requests read and checked, answers written."""

from __future__ import annotations

import array
import contextlib
import math
import os
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from roomful import dsh

#: Longer requests are refused: Linux itself takes at most 2 MiB of arguments and environment.
LONGEST = 4 << 20
#: struct ucred: process, user, group.
CREDENTIALS = struct.Struct("3i")


class WireError(Exception):
    """Report a request that is none."""


@dataclass(frozen=True)
class Request:
    """One request: what to do, options, changes of the environment, the command's words."""

    verb: str
    options: Mapping[str, str]
    env: Mapping[str, str]
    argv: tuple[str, ...]

    def flag(self, name: str) -> bool:
        """Whether an option is switched on."""
        return self.options.get(name) == "yes"

    def number(self, name: str, default: float) -> float:
        """Return an option's number. Raises WireError."""
        try:
            value = float(self.options.get(name, default))
        except ValueError:
            value = -1.0
        if value < 0 or math.isnan(value):
            raise WireError(f"--{name} needs a number, not {self.options[name]!r}")
        return value

    def count(self, name: str, default: int) -> int:
        """Return an option's whole number. Raises WireError."""
        value = self.options.get(name, str(default))
        if not (value.isascii() and value.isdecimal()) or len(value) > 9:
            raise WireError(f"--{name} needs a whole number, not {value!r}")
        return int(value)

    def octal(self, name: str) -> int | None:
        """Return an option's octal number, None where it is not given. Raises WireError."""
        value = self.options.get(name)
        if value is None:
            return None
        if not re.fullmatch("[0-7]{1,4}", value):
            raise WireError(f"--{name} needs an octal number, not {value!r}")
        return int(value, 8)


def parse(body: bytes) -> Request:
    """Read a request's fields. Raises WireError."""
    version, *fields = body.split(b"\0")
    if version != dsh.VERSION:
        raise WireError("this dsh and its dispatcher are of different versions; run: inv stop-dispatcher")
    try:
        verb = fields.pop(0)
        end = fields.index(b"")
        options, rest = fields[:end], fields[end + 1 :]
        end = rest.index(b"")
        env, argv = rest[:end], rest[end + 1 : -1]
    except (IndexError, ValueError):
        raise WireError("not a request") from None
    return Request(verb.decode("ascii", "replace"), _pairs(options), _pairs(env), tuple(map(os.fsdecode, argv)))


def _pairs(entries: list[bytes]) -> dict[str, str]:
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name}


class Client:
    """A connection from a dsh: receives one request with three descriptors, then signals; sends answers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        #: What came with the request.
        self._early = b""

    @property
    def trusted(self) -> bool:
        """Whether the other process is of our own user, as the kernel says."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        return int(CREDENTIALS.unpack(raw)[1]) == os.getuid()

    def request(self) -> tuple[Request, list[int]]:
        """Receive the request, and the descriptors that came with it, which are the caller's to close.

        Raises WireError.
        """
        fds: list[int] = []
        try:
            data, ancillary, _, _ = self._sock.recvmsg(1 << 16, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC)
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds += array.array("i", payload[: len(payload) // 4 * 4])
            if len(data) < 4:
                raise WireError("not a request")
            length = int.from_bytes(data[:4], "big")
            if length > LONGEST:
                raise WireError(f"a request of {length:,} bytes is too long")
            while len(data) < length + 4:
                part = self._sock.recv(1 << 20)
                if not part:
                    raise WireError("the request is cut")
                data += part
            self._early = data[length + 4 :]
            return parse(data[4 : length + 4]), fds
        except (OSError, WireError) as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, WireError):
                raise
            raise WireError(str(error)) from error

    def signals(self) -> bytes:
        """Wait for signals' numbers, one byte each; none: the client has gone, or we are done with it."""
        early, self._early = self._early, b""
        try:
            return early or self._sock.recv(64)
        except OSError:
            return b""

    def say(self, kind: bytes, payload: bytes | str = b"") -> None:
        """Send an answer; a client that has gone needs none."""
        data = payload if isinstance(payload, bytes) else payload.replace("\n", " ").encode(errors="surrogateescape")
        with self._sending, contextlib.suppress(OSError):
            self._sock.sendall(kind + len(data).to_bytes(4, "big") + data)

    def finish(self, code: int) -> None:
        """Send the exit code and hang up."""
        self.say(dsh.EXIT, bytes([code]))
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection; who waits in `signals` is woken."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._sock.close()
