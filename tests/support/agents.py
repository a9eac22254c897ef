"""Agents for tests: real ones beside a private Valkey, and scripted ones that speak the queue's language."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roomful.agent.acl import acl_rules
from roomful.agent.link import claimed_tasks
from roomful.bundle import build_bundle
from roomful.queue import Queue, TaskSpec
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

#: A loaded machine may need this long for what usually takes milliseconds.
PATIENCE = 30.0
#: A process of a dead agent or an ended task is gone within this; the promise.
GONE_SECONDS = 5.0


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    return False


def pid_in(path: Path) -> int:
    """Wait for a task to write its pid, and return that."""
    text = wait_until(lambda: path.exists() and path.read_text().strip(), PATIENCE)
    return int(text)


class Room:
    """A Valkey, a queue, and agents that all run on this machine, each under a host label of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = " ".join(["user agent on >secret-of-agents", *acl_rules("room")])
        self.valkey = Valkey(folder, [user]).start()
        self.bundle = build_bundle(folder).path
        self.queue = Queue.connect(self.valkey.socket, "room")
        self._started: list[tuple[str, Path]] = []

    def config(self, host: str, **changes: Any) -> dict[str, Any]:
        """Make the configuration of an agent on a host."""
        return {
            "cluster": "room",
            "host": host,
            "socket": self.valkey.socket,
            "username": "agent",
            "password": "secret-of-agents",
            "workdir": str(self.folder / f"work-{host}"),
            "directory": str(self.folder / f"agent-{host}"),
            **changes,
        }

    def command(self, *arguments: str, python: str = sys.executable, given: str = "") -> dict[str, Any]:
        """Run a command of the bundle and return what it printed."""
        run = subprocess.run(
            [python, str(self.bundle), *arguments], input=given.encode(), capture_output=True, timeout=60
        )
        assert run.stdout, run.stderr.decode()
        reply: dict[str, Any] = json.loads(run.stdout)
        return reply

    def start(self, host: str = "one", python: str = sys.executable, **changes: Any) -> dict[str, Any]:
        """Start an agent, and wait until it is in the queue."""
        config = self.config(host, **changes)
        self._started.append((python, Path(config["directory"])))
        reply = self.command("agent", "--config", "-", python=python, given=json.dumps(config))
        known = Path(config["directory"]) / "status.json"
        wait_until(lambda: self.client(host) and known.exists(), PATIENCE, lambda: self.log(host))
        return reply

    def client(self, host: str) -> Any:
        """Return the record of the live agent of a host."""
        return next((one for one in self.queue.clients() if one.host == host and one.state == "live"), None)

    def log(self, host: str = "one") -> str:
        """Read an agent's log."""
        path = self.folder / f"agent-{host}" / "agent.log"
        return path.read_text() if path.exists() else "no log"

    def worker_pid(self, host: str = "one") -> int:
        """Return the pid of an agent's worker."""
        path = self.folder / f"agent-{host}" / "status.json"
        return int(json.loads(path.read_text())["pid"])

    def guard_pid(self, host: str = "one") -> int:
        """Return the pid of an agent's guard."""
        return int((self.folder / f"agent-{host}" / "lock").read_text())

    def submit(self, *commands: str, **fields: Any) -> list[int]:
        """Submit shell tasks and return their ids."""
        return self.queue.submit([TaskSpec(command=command, **fields) for command in commands]).ids

    def run(self, *commands: str, **fields: Any) -> list[Any]:
        """Submit shell tasks, wait for their ends, and return their records."""
        ids = self.submit(*commands, **fields)
        assert self.queue.wait(ids, timeout=PATIENCE), f"{self.queue.counts()}; {self.log()}"
        return [self.queue.task(task_id) for task_id in ids]

    def close_agents(self) -> None:
        """Stop the agents."""
        while self._started:
            python, directory = self._started.pop()
            self.command("stop", "--directory", str(directory), "--timeout", "10", python=python)

    def close(self) -> None:
        """Stop everything."""
        self.close_agents()
        self.queue.close()
        self.valkey.stop()


@contextlib.contextmanager
def a_room() -> Iterator[Room]:
    """Open a room for the time of a ``with`` block, in a folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    room = None
    try:
        room = Room(folder)
        yield room
    finally:
        if room is not None:
            room.close()
        shutil.rmtree(folder)


class Scripted:
    """An agent that does only what a test says, through the same scripts as a real one."""

    def __init__(self, queue: Queue, host: str, cpus: int = 4, memory_mib: int = 4096, instance: str = "") -> None:
        self.queue = queue
        self.host = host
        self.size = (cpus * 1000, memory_mib)
        self.nonce = os.urandom(8).hex()
        self.instance = instance or self.nonce
        self.token = 0
        self.name = ""
        self.register()

    def register(self, holds: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Register; return the tasks that are not ours any more."""
        held = " ".join(f"{task_id}:{attempt}" for task_id, attempt in holds)
        cpu, memory = self.size
        reply = self.queue.scripts.call(
            "register", self.host, self.nonce, self.instance, "{}", f"{cpu} {memory}", held
        )
        self.name = reply[0].decode()
        return [int(task_id) for task_id in reply[1:]]

    def claim(
        self, slots: int = 1, ahead: int = 0, *, token: int | None = None, **free: int
    ) -> list[tuple[int, int]]:
        """Claim; return pairs of id and attempt."""
        if token is None:
            self.token += 1
            token = self.token
        cpu, memory = free.get("cpu", self.size[0]), free.get("memory", self.size[1])
        reply = self.queue.scripts.call("claim", self.name, token, slots, ahead, cpu, memory)
        self.status = reply[0].decode()
        return [(task_id, attempt) for task_id, attempt, *_ in claimed_tasks(b"".join(reply[1:]))]

    def finish(self, task_id: int, attempt: int, exit_code: int = 0, stdout: bytes = b"") -> str:
        """Report an end; return the queue's verdict."""
        said = {"exit": exit_code, **({"reason": f"exit {exit_code}"} if exit_code else {})}
        state = "failed" if exit_code else "done"
        kept = b"\n" + stdout if stdout else b""
        head = f"{task_id} {attempt} {state} 0 1000 {len(kept)} 0\n{json.dumps(said)}\n"
        reply = self.queue.scripts.call("finish", self.name, head.encode() + kept)
        return str(reply.decode())

    def requeue(self, how: str, *tasks: tuple[int, int, int]) -> int:
        """Give tasks back: id, attempt, MiB."""
        lines = [f"{task_id} {attempt} {memory}" for task_id, attempt, memory in tasks]
        return int(self.queue.scripts.call("requeue", self.name, how, "a test", *lines))

    def beat(self, *holds: tuple[int, int], complete: bool = True) -> list[Any]:
        """Send a heartbeat and return the reply."""
        held = " ".join(f"{task_id}:{attempt}" for task_id, attempt in holds)
        reply: list[Any] = self.queue.scripts.call("heartbeat", self.name, "{}", "0", int(complete), held, 3000)
        return reply


class Wire:
    """A Unix socket that leads to another one, until a test cuts it."""

    def __init__(self, path: Path, target: str) -> None:
        self.path = str(path)
        self._target = target
        #: Whether what the server says is thrown away; what the client says still goes through.
        self.deaf = False
        #: Becomes deaf as soon as the client has said this.
        self.deaf_after = b""
        #: Whether nothing passes at all, though connections stay open.
        self.frozen = False
        self._refusing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close what is open and refuse what comes."""
        self._refusing = True
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let everything through again, over new connections."""
        if self.deaf or self.frozen:
            self.cut()
        self.deaf_after = b""
        self._refusing = self.deaf = self.frozen = False

    def close(self) -> None:
        """Cut for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                # The server is away.
                client.close()
                server.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while True:
                ready, _, _ = select.select([client, server], [], [], 0.05)
                if self.frozen:
                    threading.Event().wait(0.05)
                    continue
                for end in ready:
                    try:
                        data = end.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    if end is client:
                        self.deaf = self.deaf or bool(self.deaf_after and self.deaf_after in data)
                        try:
                            server.sendall(data)
                        except OSError:
                            return
                    elif not self.deaf:
                        with contextlib.suppress(OSError):
                            client.sendall(data)
