"""A cluster on this machine, with everything real but the network, and somebody who breaks it at random."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from roomful.agent.private import Lock
from roomful.agent.processes import marked, send
from roomful.agent.task import MIB
from roomful.errors import ServerError
from roomful.queue import Queue
from roomful.server import Server
from roomful.settings import Settings
from roomful.state import ProjectState
from tests.support.agents import Wire
from tests.support.history import Size
from tests.support.processes import argv_of
from tests.support.waiting import wait_until


class Cluster:
    """A server with its supervisor and keeper, and an agent for each host behind a wire of its own."""

    def __init__(self, folder: Path, settings: Settings, sizes: Mapping[str, Size], bundle: Path) -> None:
        """``sizes`` are what hosts have to give; ``folder`` holds the agents' folders, and the server's."""
        self.folder = folder
        self.sizes = sizes
        self.bundle = bundle
        self.server = Server(settings, None)
        self.server.start()
        with self.server.access() as access:
            self.access = access
        self.name = ProjectState(settings).cluster_name
        self.wires = {host: Wire(folder / f"{host}.sock", access.socket) for host in sizes}
        self._frozen: set[int] = set()
        for host in sizes:
            self.start_agent(host)

    def queue(self) -> contextlib.AbstractContextManager[Queue]:
        """Connect to the queue, past all wires; waits for a server that is about to be back."""
        return self.access.queue(self.name)

    def home(self, host: str) -> Path:
        """The folder of a host's agent."""
        return self.folder / f"agent-{host}"

    def start_agent(self, host: str) -> None:
        """Start a host's agent, unless it runs."""
        config = {
            "cluster": self.name,
            "host": host,
            "socket": self.wires[host].path,
            "username": "agent",
            "password": self.access.passwords["agent"],
            "workdir": str(self.folder / f"work-{host}"),
            "directory": str(self.home(host)),
            "cpus": self.sizes[host].cpu_milli / 1000,
            "memory_bytes": self.sizes[host].memory_mib * MIB,
        }
        self._call("agent", "--config", "-", given=json.dumps(config))

    def _call(self, *words: str, given: str = "") -> None:
        argv = [sys.executable, str(self.bundle), *words]
        subprocess.run(argv, input=given, text=True, capture_output=True, check=True, timeout=60)

    def guard(self, host: str) -> int:
        """Pid of a host's guard; 0: none."""
        return self._ours(Lock(self.home(host) / "lock").owner() or 0)

    def worker(self, host: str) -> int:
        """Pid of a host's worker; 0: none that is known."""
        return self._said(self.home(host), "pid")

    def tasks(self, host: str) -> list[int]:
        """Pids of everything that was started for tasks on a host."""
        with contextlib.suppress(OSError):
            return marked("ROOMFUL_AGENT", (self.home(host) / "instance").read_text().strip())
        return []

    def part(self, name: str) -> int:
        """Pid of a part of the server: ``supervisor``, ``keeper``, ``valkey``; 0: it does not run."""
        return self._said(Path(self.access.directory), name)

    def _said(self, folder: Path, name: str) -> int:
        """Pid of a process by a status file, which may be older than the process's end."""
        with contextlib.suppress(OSError, ValueError):
            return self._ours(int(json.loads((folder / "status.json").read_text()).get(name) or 0))
        return 0

    def _ours(self, pid: int) -> int:
        """The pid, if it is (still) a process of this cluster's, else 0."""
        return pid if pid > 1 and any(str(self.folder) in word for word in argv_of(pid)) else 0

    def freeze(self, pid: int) -> None:
        """Stop a process until ``thaw``."""
        self._frozen.add(pid)
        send(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        """Let a process go on."""
        if pid in self._frozen:
            self._frozen.discard(pid)
            if self._ours(pid):
                send(pid, signal.SIGCONT)

    def cut_power(self, host: str) -> None:
        """Let everything on a host be gone at once."""
        ours = [pid for pid in (self.guard(host), self.worker(host)) if pid]
        # Nobody may notice that another one has gone.
        for pid in ours:
            send(pid, signal.SIGSTOP)
        for pid in ours:
            send(pid, signal.SIGKILL)
        wait_until(lambda: not self._sweep(host), 20, f"processes of {host} are still there")

    def _sweep(self, host: str) -> list[int]:
        left = self.tasks(host)
        for pid in left:
            send(pid, signal.SIGKILL)
        return left

    def mend(self) -> None:
        """Undo everything: all run, all wires are whole."""
        for pid in list(self._frozen):
            self.thaw(pid)
        for wire in self.wires.values():
            wire.mend()
        self.server.start()
        for host in self.sizes:
            self.start_agent(host)

    def stop_agents(self) -> None:
        """Stop the agents in order."""
        for host in self.sizes:
            self._call("stop", "--directory", str(self.home(host)), "--timeout", "20")

    def close(self) -> None:
        """Stop the agents, whatever state they are in, and cut the wires."""
        for pid in list(self._frozen):
            self.thaw(pid)
        for host in self.sizes:
            self.cut_power(host)
        for wire in self.wires.values():
            wire.close()


class Nemesis:
    """Breaks one thing after the other, several at a time, and mends each after a while."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._dark: set[str] = set()
        #: How often each fault was injected.
        self.done: Counter[str] = Counter()
        #: How likely a fault is, and what injects it in a host; False where there was nothing to break.
        self._faults: dict[str, tuple[int, Callable[[str], bool]]] = {
            "kill worker": (4, lambda host: self._kill(cluster.worker(host))),
            "kill guard": (3, lambda host: self._kill(cluster.guard(host))),
            "kill task": (4, self._kill_task),
            "power cut": (3, self._power_cut),
            "freeze agent": (4, lambda host: self._freeze(cluster.worker(host), 8.0)),
            "cut link": (4, self._cut_link),
            "lose replies": (3, self._lose_replies),
            "hang link": (3, self._hang_link),
            "kill valkey": (2, lambda _: self._kill(cluster.part("valkey"))),
            "kill keeper": (2, lambda _: self._kill(cluster.part("keeper"))),
            "kill supervisor": (1, self._kill_supervisor),
            "freeze valkey": (2, lambda _: self._freeze(cluster.part("valkey"), 5.0)),
        }

    def run(self, seconds: float) -> None:
        """Break things for this long, then mend what is broken."""
        names = list(self._faults)
        weights = [weight for weight, _ in self._faults.values()]
        end = time.monotonic() + seconds
        strike = 0.0
        while (now := time.monotonic()) < end:
            while self._undo and self._undo[0][0] <= now:
                heapq.heappop(self._undo)[2]()
            if now >= strike:
                (name,) = self._dice.choices(names, weights)
                host = self._dice.choice(sorted(self._cluster.sizes))
                if host not in self._dark and self._faults[name][1](host):
                    self.done[name] += 1
                strike = now + self._dice.uniform(0.2, 1.5)
            time.sleep(0.02)
        self._cluster.mend()

    def _later(self, most: float, undo: Callable[[], None]) -> bool:
        when = time.monotonic() + self._dice.uniform(0.1, most)
        heapq.heappush(self._undo, (when, next(self._number), undo))
        return True

    @staticmethod
    def _kill(pid: int) -> bool:
        if pid:
            send(pid, signal.SIGKILL)
        return bool(pid)

    def _freeze(self, pid: int, most: float) -> bool:
        if pid:
            self._cluster.freeze(pid)
            self._later(most, lambda: self._cluster.thaw(pid))
        return bool(pid)

    def _kill_task(self, host: str) -> bool:
        pids = self._cluster.tasks(host)
        return bool(pids) and self._kill(self._dice.choice(pids))

    def _power_cut(self, host: str) -> bool:
        def boot() -> None:
            self._dark.discard(host)
            self._cluster.start_agent(host)

        self._cluster.cut_power(host)
        self._dark.add(host)
        return self._later(8.0, boot)

    def _cut_link(self, host: str) -> bool:
        wire = self._cluster.wires[host]
        wire.cut()
        return self._later(8.0, wire.mend)

    def _lose_replies(self, host: str) -> bool:
        wire = self._cluster.wires[host]
        wire.deaf = True
        return self._later(6.0, wire.mend)

    def _hang_link(self, host: str) -> bool:
        wire = self._cluster.wires[host]
        wire.frozen = True
        return self._later(6.0, wire.mend)

    def _kill_supervisor(self, _: str) -> bool:
        def start() -> None:
            # Another fault may be in the way; at the end all is started once more.
            with contextlib.suppress(ServerError):
                self._cluster.server.start()

        return self._kill(self._cluster.part("supervisor")) and self._later(3.0, start)
