"""The dispatcher: a process of the user's own that holds warm connections to hosts and serves dsh on a Unix socket.

It is started by `roomful.dispatch.control`, as ``python -m roomful.dispatch.daemon`` with a Plan on its stdin, and
ends when it is told to, or has had nothing to do for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful import dsh
from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host, format_host, parse_line
from roomful.settings import Settings

from .choice import Limits, load_score
from .folders import Mounts
from .job import House, Job, checked
from .pool import NoHost, Pool
from .wire import Client, Request, WireError

#: A dsh that comes before any host has reported waits for so long.
SETTLE_SECONDS = 15.0
#: Python lets a thread run for 5 ms while another could answer; here they hand over in less.
SWITCH_SECONDS = 0.0005
#: Descriptors that a dsh costs here at most: its own streams and connection, rsync's and the dsh's that rsync starts.
DESCRIPTORS_EACH = 24
#: Descriptors for the rest: connections to hosts, logs, libraries.
DESCRIPTORS_ELSE, DESCRIPTORS_A_HOST = 32, 2
#: Pause where no descriptor is left, in seconds.
FULL_SECONDS = 0.05
#: How often it is asked whether there is still something to do, in seconds.
IDLE_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What a dispatcher is started with."""

    socket: Path
    hosts: tuple[Host, ...]
    settings: Settings
    score: str
    idle_seconds: float

    def document(self) -> bytes:
        """Return it as JSON."""
        settings = {name: value for name, value in vars(self.settings).items() if name != "root"}
        return json.dumps(
            {
                "socket": str(self.socket),
                "hosts": [format_host(host) for host in self.hosts],
                "root": str(self.settings.root),
                "settings": settings,
                "score": self.score,
                "idle_seconds": self.idle_seconds,
            }
        ).encode()

    @classmethod
    def of(cls, document: bytes) -> Plan:
        """Read what `document` wrote."""
        told: dict[str, Any] = json.loads(document)
        hosts = [parse_line(line, "dispatcher") for line in told["hosts"]]
        return cls(
            Path(told["socket"]),
            tuple(host for host in hosts if host),
            Settings(root=Path(told["root"]), **told["settings"]),
            told["score"],
            told["idle_seconds"],
        )


class Dispatcher:
    """Serves clients on a socket until it is told to end or is idle for too long."""

    def __init__(self, plan: Plan, house: House, listener: socket.socket) -> None:
        self._plan = plan
        self._house = house
        self._listener = listener
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._room = house.room
        self._serving = 0
        self._last = time.monotonic()

    def serve(self) -> None:
        """Take in clients until the end."""
        threading.Thread(target=self._accept, daemon=True, name="accept").start()
        while not self._ending.wait(IDLE_LOOK_SECONDS):
            with self._lock:
                idle = 0.0 if self._serving else time.monotonic() - self._last
            # A socket that somebody removed leads no one here any more.
            if idle > self._plan.idle_seconds or not self._plan.socket.exists():
                break

    def end(self) -> None:
        """Make `serve` return."""
        self._ending.set()

    def _accept(self) -> None:
        while True:
            # Whoever does not fit in waits at the door, and costs no descriptor there.
            self._room.acquire()
            try:
                sock, _ = self._listener.accept()
            except OSError:
                # No descriptor is left all the same; those that run give theirs back.
                self._room.release()
                time.sleep(FULL_SECONDS)
                continue
            threading.Thread(target=self._client, args=(Client(sock),), daemon=True, name="client").start()

    def _client(self, client: Client) -> None:
        with self._lock:
            self._serving += 1
        try:
            # The folder is 0700 already; this holds where somebody opened it.
            if client.trusted:
                self._answer(client)
        except WireError as error:
            client.say(dsh.ERROR, str(error))
            client.finish(dsh.OWN_FAILURE)
        except Exception as error:
            # A client that hears nothing would believe that we have ended.
            client.say(dsh.ERROR, f"the dispatcher failed: {error}; see {self._plan.socket.with_suffix('.log')}")
            client.finish(dsh.OWN_FAILURE)
            raise
        finally:
            client.close()
            self._room.release()
            with self._lock:
                self._serving -= 1
                self._last = time.monotonic()

    def _answer(self, client: Client) -> None:
        request, fds = client.request()
        if request.verb == "run":
            self._run(client, request, fds)
            return
        for fd in fds:
            os.close(fd)
        if request.verb == "stop":
            client.finish(0)
            self.end()
        elif request.verb == "load":
            self._house.pool.settle(SETTLE_SECONDS)
            self._house.pool.gather()
            client.say(dsh.DATA, json.dumps(self._house.pool.rows()))
            client.finish(0)
        elif request.verb == "best":
            self._house.pool.settle(SETTLE_SECONDS)
            self._house.pool.gather()
            try:
                limits = Limits(max_load=request.number("max-load", float("inf")))
                client.say(dsh.DATA, json.dumps(self._house.pool.promise(limits).label))
                client.finish(0)
            except NoHost as error:
                client.say(dsh.ERROR, str(error))
                client.finish(1)
        elif request.verb == "about":
            client.say(dsh.DATA, json.dumps({"pid": os.getpid(), "socket": str(self._plan.socket)}))
            client.finish(0)
        else:
            raise WireError(f"unknown request {request.verb!r}")

    def _run(self, client: Client, request: Request, fds: list[int]) -> None:
        try:
            order = checked(request)
            if len(fds) != 3:
                raise WireError("a request to run something comes with three descriptors")
        except WireError:
            for fd in fds:
                os.close(fd)
            raise
        self._house.pool.settle(SETTLE_SECONDS)
        Job(client, order, self._house, fds).run()


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Hold the lock beside the socket; False where another dispatcher holds it."""
    with open(path.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def listen(path: Path) -> socket.socket:
    """Open the socket, for its owner only; the lock is held, so what lies there is a dead dispatcher's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(1024)
    return listener


def most_at_once(hosts: int) -> int:
    """Return how many dsh are served at the same time, for the files that we may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (soft if soft > 0 else 1 << 16) - DESCRIPTORS_ELSE - DESCRIPTORS_A_HOST * hosts
    return max(1, free // DESCRIPTORS_EACH)


def main() -> None:
    """Serve with the plan on stdin; says on stdout, in one line, that it does or why it cannot."""
    plan = Plan.of(sys.stdin.buffer.read())
    # Nobody's child: who started it neither waits for it nor keeps its remains.
    if os.fork():
        os._exit(0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Each dsh that runs costs some ten descriptors.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16) if hard > 0 else 1 << 16, hard))
    sys.setswitchinterval(SWITCH_SECONDS)
    # Write errors are dealt with where they happen; a closed terminal is no reason to end.
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    try:
        score = load_score(plan.score)
        with only_one(plan.socket) as alone:
            if not alone:
                raise RoomfulError("a dispatcher with these hosts is running")
            _serve(plan, score)
    except (RoomfulError, OSError) as error:
        _answer_starter({"error": str(error), "input": isinstance(error, InputError)})
        sys.exit(1)


def _serve(plan: Plan, score: Any) -> None:
    listener = listen(plan.socket)
    inode = plan.socket.stat().st_ino
    try:
        with Pool(plan.hosts, plan.settings, score) as pool:
            house = House(pool, Mounts(), str(plan.socket), threading.Semaphore(most_at_once(len(plan.hosts))))
            dispatcher = Dispatcher(plan, house, listener)
            signal.signal(signal.SIGTERM, lambda *_: dispatcher.end())
            _answer_starter({"ok": os.getpid()})
            dispatcher.serve()
            with contextlib.suppress(OSError):
                if plan.socket.stat().st_ino == inode:
                    plan.socket.unlink()
    finally:
        listener.close()


def _answer_starter(answer: dict[str, Any]) -> None:
    """Say how it went, and let go of who started us."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(answer).encode() + b"\n")
    os.dup2(2, 1)


if __name__ == "__main__":
    main()
    # Threads that wait for the dead must not hold us.
    os._exit(0)
