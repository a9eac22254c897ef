"""Open TCP connections to many hosts at once and hand over each as soon as its SSH server has spoken.

One thread watches every socket, so a dead or silent host costs nobody else anything: it never holds a worker.
"""

from __future__ import annotations

import contextlib
import errno
import random
import selectors
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from roomful.agent.ssh_words import reason_of
from roomful.outcome import UNREACHABLE_REASONS, HostFailure

#: A server that drops connections at once (sshd's MaxStartups) is tried again after these pauses, in seconds.
DROPPED_PAUSES = (0.2, 0.5, 1.0, 2.0)
DROPPED = "the server closes the connection before it speaks"
#: What OpenSSH's sshd says instead of its version when it drops a connection; older ones say nothing.
TURNED_AWAY = (b"Exceeded MaxStartups", b"Not allowed at this time")
#: Bytes of a server's first words that are looked at.
FIRST_WORDS = 64
#: Name look-ups at the same time; they run in daemon threads because the resolver has no time-out of ours.
LOOKUPS = 64


@dataclass(frozen=True)
class Address:
    """Where to connect: a name or address and a port, or a command whose stdin and stdout lead there."""

    host: str
    port: int
    proxy: tuple[str, ...] = ()


@dataclass
class _Call:
    index: int
    address: Address
    targets: deque[tuple[int, tuple[object, ...]]] = field(default_factory=deque)
    sock: socket.socket | None = None
    connecting: bool = False
    drops: int = 0
    said: str = ""
    retry_at: float | None = None
    error: HostFailure | None = None
    process: subprocess.Popen[bytes] | None = None


Ready = Callable[[int, "socket.socket | HostFailure"], None]


class Dialer:
    """Dial every address; ``seconds`` is the time that all have, together, until their servers' first byte."""

    def __init__(self, addresses: Sequence[Address], seconds: float) -> None:
        self._addresses = addresses
        self._seconds = seconds
        #: Answers that came before anybody could be told.
        self._early: list[tuple[int, socket.socket | HostFailure]] = []
        self._ready: Ready = lambda index, answer: self._early.append((index, answer))
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._resolved: deque[_Call] = deque()
        self._waiting: set[int] = set()
        self._paused: list[_Call] = []
        self._calls: dict[int, _Call] = {}
        self._stopped = False
        self._deadline = 0.0

    def begin(self) -> None:
        """Start dialling, and wait for nothing; ``run`` does the rest. The time runs from here."""
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._deadline = time.monotonic() + self._seconds
        self._calls = {i: _Call(i, a) for i, a in enumerate(self._addresses)}
        self._waiting = set(self._calls)
        self._resolve(self._calls.values())

    def run(self, ready: Ready) -> None:
        """Dial until every address has answered or failed.

        Calls ``ready(index, socket or HostFailure)`` for each, in the order they answer.
        """
        try:
            if not self._calls:
                self.begin()
            self._ready = ready
            for index, answer in self._early:
                ready(index, answer)
            while self._waiting and not self._stopped:
                self._turn()
        finally:
            for call in self._calls.values():
                if call.index in self._waiting:
                    self._drop(call)
            self._selector.close()
            self._woken.close()
            self._wake.close()

    def stop(self) -> None:
        """Give up on all that have not answered."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def _resolve(self, calls: Iterable[_Call]) -> None:
        names: dict[tuple[str, int], list[_Call]] = {}
        for call in calls:
            if call.address.proxy:
                self._start_proxy(call)
            elif not self._resolve_literal(call):
                names.setdefault((call.address.host, call.address.port), []).append(call)
        queue = deque(names.items())

        def work() -> None:
            while True:
                try:
                    (host, port), same = queue.popleft()
                except IndexError:
                    return
                found: list[tuple[int, tuple[object, ...]]] = []
                error = None
                try:
                    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                    found = [(info[0], info[4]) for info in infos]
                except (OSError, UnicodeError) as problem:
                    error = HostFailure("dns", f"{host}: {getattr(problem, 'strerror', None) or problem}")
                for call in same:
                    call.targets, call.error = deque(found), error
                    self._resolved.append(call)
                with contextlib.suppress(OSError):
                    self._wake.send(b"x")

        for _ in range(min(LOOKUPS, len(queue))):
            threading.Thread(target=work, daemon=True, name="resolve").start()

    def _resolve_literal(self, call: _Call) -> bool:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, call.address.host)
            except OSError:
                continue
            call.targets.append((family, (call.address.host, call.address.port)))
            self._connect(call)
            return True
        return False

    def _start_proxy(self, call: _Call) -> None:
        ours, theirs = socket.socketpair()
        try:
            call.process = subprocess.Popen(
                call.address.proxy,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._finish(call, HostFailure("error", f"{call.address.proxy[0]}: {error.strerror}"))
            return
        finally:
            theirs.close()
        self._watch(call, ours, selectors.EVENT_READ)

    def _connect(self, call: _Call) -> None:
        if not call.targets:
            self._finish(call, call.error or HostFailure("timeout"))
            return
        family, target = call.targets.popleft()
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = sock.connect_ex(target)
        if result not in (0, errno.EINPROGRESS):
            sock.close()
            call.error = _failure(result, call.address)
            self._connect(call)
            return
        call.connecting = True
        self._watch(call, sock, selectors.EVENT_WRITE)

    def _watch(self, call: _Call, sock: socket.socket, event: int) -> None:
        sock.setblocking(False)
        call.sock = sock
        self._selector.register(sock, event, call)

    def _turn(self) -> None:
        times = [self._deadline, *(call.retry_at for call in self._paused if call.retry_at is not None)]
        for key, _ in self._selector.select(max(0.0, min(times) - time.monotonic())):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            else:
                self._advance(key.data)
        while self._resolved:
            self._connect(self._resolved.popleft())
        now = time.monotonic()
        for call in [call for call in self._paused if (call.retry_at or 0) <= now]:
            self._paused.remove(call)
            self._again(call)
        for index in tuple(self._waiting) if self._deadline <= now else ():
            call = self._calls[index]
            self._finish(call, self._too_late(call))

    def _too_late(self, call: _Call) -> HostFailure:
        if call.drops:
            what = f"the server takes no more logins now: {call.said}" if call.said else DROPPED
            return HostFailure("protocol", f"{what} ({call.drops} times)")
        if call.process is not None:
            # The command's last word: a gateway's name, or a ProxyCommand as a whole.
            return HostFailure("timeout", f"no answer within {self._seconds:g} s through {call.address.proxy[-1]}")
        what = "connected, but the server never spoke" if call.sock and not call.connecting else "no answer"
        return HostFailure("timeout", f"{what} within {self._seconds:g} s")

    def _advance(self, call: _Call) -> None:
        sock = call.sock
        if sock is None:
            return
        if call.connecting:
            result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if result:
                call.error = _failure(result, call.address)
                self._forget_socket(call)
                self._connect(call)
                return
            call.connecting = False
            self._selector.modify(sock, selectors.EVENT_READ, call)
            return
        try:
            first = sock.recv(FIRST_WORDS, socket.MSG_PEEK)
        except OSError as error:
            first = b""
            call.error = _failure(error.errno or 0, call.address)
        if first.startswith(TURNED_AWAY):
            call.said = first.split(b"\r")[0].decode()
        elif first:
            self._selector.unregister(sock)
            sock.setblocking(True)
            self._waiting.discard(call.index)
            self._ready(call.index, sock)
            return
        self._dropped(call)

    def _dropped(self, call: _Call) -> None:
        """The server closed before it spoke: sshd does so when too many log in at once (MaxStartups)."""
        self._forget_socket(call)
        if call.process is not None:
            # The line ssh printed says more than we could.
            said = (call.process.communicate()[1] or b"").decode(errors="replace").strip().splitlines()
            reason, detail = reason_of(said, call.process.returncode)
            if reason == "lost" and call.drops < len(DROPPED_PAUSES):
                self._pause(call)
                return
            reason = reason if reason in UNREACHABLE_REASONS else "protocol"
            self._finish(call, HostFailure(reason, f"{detail} (through {call.address.proxy[-1]})"))
        elif call.said or call.drops < len(DROPPED_PAUSES):
            # Who says so will have room again: that is worth all the time there is.
            self._pause(call)
        else:
            self._finish(call, HostFailure("protocol", f"{DROPPED} ({call.drops + 1} times)"))

    def _pause(self, call: _Call) -> None:
        pause = DROPPED_PAUSES[min(call.drops, len(DROPPED_PAUSES) - 1)]
        # Not all who were dropped together come back together.
        call.retry_at = time.monotonic() + pause * random.uniform(0.5, 1.5)
        call.drops += 1
        self._paused.append(call)

    def _again(self, call: _Call) -> None:
        call.retry_at = None
        if call.index in self._waiting:
            self._resolve([call])

    def _finish(self, call: _Call, failure: HostFailure) -> None:
        self._drop(call)
        if call.index in self._waiting:
            self._waiting.discard(call.index)
            self._ready(call.index, failure)

    def _drop(self, call: _Call) -> None:
        self._forget_socket(call)
        if call.process is not None and call.process.poll() is None:
            call.process.kill()
            call.process.wait()

    def _forget_socket(self, call: _Call) -> None:
        if call.sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(call.sock)
            call.sock.close()
            call.sock = None


def _failure(number: int, address: Address) -> HostFailure:
    where = f"{address.host}:{address.port}"
    if number in (errno.ECONNREFUSED,):
        return HostFailure("refused", f"nothing listens on {where}")
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
        return HostFailure("no-route", f"no route to {where}")
    if number == errno.ETIMEDOUT:
        return HostFailure("timeout", f"no answer from {where}")
    return HostFailure("protocol", f"{where}: {errno.errorcode.get(number, number)}")
