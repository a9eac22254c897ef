"""Start, ask and stop the dispatchers of a project, from where `inv` runs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful import dsh
from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host, format_host
from roomful.settings import Settings
from roomful.state import ProjectState, private_directory

from .choice import load_score
from .daemon import Plan
from .wire import CREDENTIALS

#: A dispatcher without work ends after an hour.
IDLE_SECONDS = 3600.0
#: It must listen within this time; it does not wait for any host.
START_SECONDS = 30.0
#: An answer that needs hosts may take as long as they take to connect.
ANSWER_SECONDS = 60.0
#: Ending every command on every host takes at most some seconds.
STOP_SECONDS = 15.0
#: Name and version of what a project remembers about its dispatcher.
MEMORY, MEMORY_VERSION = "dispatcher", 1


def directory() -> Path:
    """Return the folder of this user's dispatchers on this machine, for its owner only."""
    return private_directory(Path(f"/tmp/roomful-{os.getuid()}") / "dispatch")


@dataclass(frozen=True)
class Wish:
    """Which dispatcher is wanted: its hosts, how they are evaluated, when it ends."""

    hosts: tuple[Host, ...]
    score: str = ""
    idle_seconds: float = IDLE_SECONDS


class Control:
    """The dispatchers of one project."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = ProjectState(settings)
        self._link = self.state.directory / "dispatcher"

    def path(self, wish: Wish) -> Path:
        """Return the socket of the dispatcher with these hosts: another list is another dispatcher."""
        what = "\n".join([wish.score, *(format_host(host) for host in wish.hosts)])
        return directory() / f"{self.state.cluster_name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.sock"

    def ensure(self, wish: Wish) -> Path:
        """Start the dispatcher unless it runs; returns its socket. Raises RoomfulError."""
        path = self.path(wish)
        try:
            # Many first uses at the same time (make -j) start one.
            with _locked(path.with_suffix(".start")):
                if not answers(path):
                    _start(Plan(path, wish.hosts, self.settings, wish.score, wish.idle_seconds))
        except OSError as error:
            where, why = error.filename or str(path.parent), error.strerror or str(error)
            raise RoomfulError("cannot start a dispatcher", where=str(where), why=why) from error
        return path

    def remember(self, path: Path, call: dict[str, Any]) -> None:
        """Make this the dispatcher that dsh uses in this project, and outside of any; ``call`` starts it again."""
        # dsh starts it again with what is remembered already, also where nothing can be written.
        known = self.remembered()
        if any(known.get(name) != value for name, value in call.items()):
            self.state.write(MEMORY, call, MEMORY_VERSION)
        _link(self._link, str(path))
        _link(directory() / "project", str(self.settings.root.resolve()))

    def remembered(self) -> dict[str, Any]:
        """Return what `remember` was given last; empty where nothing was."""
        return self.state.read(MEMORY, MEMORY_VERSION) or {}

    def running(self) -> list[Path]:
        """Return the sockets of this project's dispatchers that answer."""
        found = sorted(directory().glob(f"{self.state.cluster_name}-*.sock"))
        return [path for path in found if answers(path)]

    def stop(self) -> int:
        """End all dispatchers of this project and every command that they run; returns how many."""
        running = self.running()
        for path in running:
            # By a signal: one of another version understands that too.
            pid = process_of(path)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        return len(running)


def _start(plan: Plan) -> None:
    load_score(plan.score)
    log = plan.socket.with_suffix(".log")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(log, flags, 0o600), "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "roomful.dispatch.daemon"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=plan.settings.root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError), process.stdin as stdin:
        stdin.write(plan.document())
    with process.stdout as stdout:
        line = stdout.readline()
    process.wait()
    if not line:
        said = log.read_text(errors="replace").strip().splitlines()
        raise RoomfulError("the dispatcher does not start", why=said[-1] if said else "", fix=f"see {log}")
    answer = json.loads(line)
    if "error" in answer:
        raise (InputError if answer.get("input") else RoomfulError)(answer["error"])


def answers(path: Path) -> bool:
    """Whether a dispatcher listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def process_of(path: Path) -> int:
    """Return the process that listens there, as the kernel knows it. Raises RoomfulError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError as error:
            raise RoomfulError("no dispatcher", where=str(path), why=error.strerror or str(error)) from error
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        return int(CREDENTIALS.unpack(credentials)[0])


def ask(path: Path, verb: bytes, options: Sequence[bytes] = ()) -> Any:
    """Ask a dispatcher something; returns the answer's JSON, None where it has none. Raises RoomfulError."""
    answer = None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(str(path))
            sock.sendall(dsh.request(verb, options))
            while True:
                head = dsh.receive(sock, 5)
                payload = dsh.receive(sock, int.from_bytes(head[1:], "big"))
                if head[:1] == dsh.DATA:
                    answer = json.loads(payload)
                elif head[:1] == dsh.ERROR:
                    raise RoomfulError(payload.decode(errors="replace"))
                else:
                    return answer
        except OSError as error:
            why = error.strerror or str(error)
            fix = "start it with: inv start-dispatcher"
            raise RoomfulError("cannot ask the dispatcher", where=str(path), why=why, fix=fix) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.replace(path)
