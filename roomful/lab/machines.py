"""What both kinds of lab do alike: start hosts, tell their init what to serve, wait until they answer."""

from __future__ import annotations

import abc
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roomful.errors import RoomfulError
from roomful.lab import processes, sshd
from roomful.lab.banners import wait_for_banners
from roomful.lab.model import Lab, LabHost

INIT = Path(__file__).with_name("init.py")
#: A lab of this many hosts may take this long to answer, plus SECONDS_PER_HOST each.
BOOT_SECONDS = 20.0
SECONDS_PER_HOST = 0.5
#: How long a host's init may take to carry out a wish.
SERVICE_SECONDS = 10.0

#: Called with what is being done, how many are done, and how many there are.
Progress = Callable[[str, int, int], None]


class Machines(abc.ABC):
    """The hosts of one lab as machines that can be switched on and off, and broken."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @abc.abstractmethod
    def prepare(self) -> None:
        """Build what the hosts share, and what each keeps while it is off."""

    @abc.abstractmethod
    def spec(self, host: LabHost) -> dict[str, Any]:
        """Return what init.py is told about a host."""

    @abc.abstractmethod
    def wire(self, pids: Mapping[LabHost, int]) -> None:
        """Connect hosts that are starting to the network."""

    @abc.abstractmethod
    def switch_off(self, host: LabHost) -> None:
        """End every process of a host at once, as a power cut does."""

    @abc.abstractmethod
    def freeze(self, host: LabHost) -> None:
        """Stop every process of a host; its kernel still answers."""

    @abc.abstractmethod
    def thaw(self, host: LabHost) -> None:
        """Let a frozen host go on."""

    @abc.abstractmethod
    def cut(self, host: LabHost, direction: str) -> None:
        """Drop what goes into the host, comes out of it, or both."""

    @abc.abstractmethod
    def rejoin(self, host: LabHost) -> None:
        """Undo ``cut``."""

    @abc.abstractmethod
    def fill_disk(self, host: LabHost) -> None:
        """Leave no byte free on the host's disk."""

    @abc.abstractmethod
    def free_disk(self, host: LabHost) -> None:
        """Undo ``fill_disk``."""

    @abc.abstractmethod
    def hang_home(self, host: LabHost) -> None:
        """Let the user's home hang: whoever looks into it waits."""

    @abc.abstractmethod
    def answer_home(self, host: LabHost) -> None:
        """Undo ``hang_home``."""

    def init_pid(self, host: LabHost) -> int | None:
        """Return the host's init process, as the controller sees it; None where the host is off."""
        return min(processes.inits(self.lab.host_directory(host.name)), default=None)

    def boot(self, hosts: Sequence[LabHost], progress: Progress) -> None:
        """Switch these hosts on, together, and wait until each answers.

        Raises RoomfulError with the end of a host's log where it does not.
        """
        if not hosts:
            return
        starting = {host: self._start(host) for host in hosts}
        try:
            self.wire({host: self._pid(host, process) for host, process in starting.items()})
            for process in starting.values():
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
        finally:
            # Whoever was not told to go ends now.
            for process in starting.values():
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with contextlib.suppress(BrokenPipeError):
                            pipe.close()
                process.wait()
        self.wait(hosts, progress)

    def wait(self, hosts: Sequence[LabHost], progress: Progress) -> None:
        """Wait until the SSH server of each of these hosts has spoken.

        Raises RoomfulError with the end of its log for the first that does not.
        """
        done: set[str] = set()

        def on_answer(address: str) -> None:
            done.add(address)
            progress("hosts answer", len(done), len(hosts))

        seconds = BOOT_SECONDS + SECONDS_PER_HOST * len(hosts)
        addresses = [(host.address, self.lab.port) for host in hosts]
        silent = wait_for_banners(addresses, self.lab.netns, seconds, on_answer)
        for host in hosts:
            if host.address in silent:
                raise RoomfulError("no SSH server answers", where=host.name, why=self.log_tail(host))

    def serve(self, host: LabHost, wanted: str) -> None:
        """Have the host's init serve ``sshd``, ``mute`` or ``none`` on its SSH port, and wait until it does.

        Raises RoomfulError where the host is off, or its init does not do it in time.
        """
        pid = self.init_pid(host)
        if pid is None:
            raise RoomfulError("the host is off", where=host.name, fix=f"switch it on: inv lab.heal {host.name}")
        folder = self.lab.host_directory(host.name)
        wish = _wish(wanted)
        (folder / "service").write_text(wish)
        os.kill(pid, 1)
        deadline = time.monotonic() + SERVICE_SECONDS
        while _read(folder / "status") != wish:
            if time.monotonic() > deadline or not processes.alive(pid):
                raise RoomfulError(f"the host does not serve {wanted!r}", where=host.name, why=self.log_tail(host))
            time.sleep(0.01)
        if wanted == "sshd":
            self.wait([host], lambda *_: None)

    def log_tail(self, host: LabHost) -> str:
        """Return the last lines of the host's log."""
        lines = _read(self.lab.host_directory(host.name) / processes.LOG).splitlines()
        return " | ".join(lines[-3:]) or "its log is empty"

    def _start(self, host: LabHost) -> subprocess.Popen[bytes]:
        folder = self.lab.host_directory(host.name)
        (folder / "status").unlink(missing_ok=True)
        (folder / "service").write_text(_wish("sshd"))
        (folder / "spec.json").write_text(json.dumps(self.spec(host)))
        argv = [sys.executable, "-I", "-S", str(INIT), str(folder)]
        environment = {processes.MARKER: str(folder), "PATH": sshd.SYSTEM_PATH}
        with open(folder / processes.LOG, "ab") as log:
            return subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd="/"
            )

    def _pid(self, host: LabHost, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RoomfulError("the host does not start", where=host.name, why=self.log_tail(host))
        return int(line)


def _wish(wanted: str) -> str:
    """Return a line for the file ``service`` that differs from every earlier one."""
    return f"{wanted} {time.monotonic_ns()}\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
