"""A lab without root: user-mode SSH servers on addresses of the loopback network.

Each host has its own address, server, keys, home and temporary folder (TMPDIR); the machine's process table, /tmp and
host name are everybody's, there is one account (the user's own), and the network cannot be cut.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roomful.errors import InputError, RoomfulError
from roomful.lab import processes, sshd
from roomful.lab.machines import Machines
from roomful.lab.model import LabHost

#: Below Linux's range of ports for outgoing connections, so that none of those can take it meanwhile.
PORTS = range(20_000, 30_000)


class RootlessMachines(Machines):
    """The hosts of a rootless lab."""

    def prepare(self) -> None:
        """Make every host's home, and the programs that give it its name."""
        if os.geteuid() == 0:
            # sshd as root insists on its folder, which Debian makes at boot.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for host in self.lab.hosts:
            folder = self.lab.host_directory(host.name)
            for name in ("home", "bin", "tmp"):
                (folder / name).mkdir(exist_ok=True)
            (folder / "etc" / "sshd_config").write_text(sshd.rootless_config(self.lab, host))
            _write_program(folder / "etc" / "login", sshd.rootless_login(self.lab, host))
            _write_program(folder / "bin" / "hostname", f"#!/bin/sh\necho {host.name}\n")

    def spec(self, host: LabHost) -> dict[str, Any]:
        """Return what init.py is told about a host."""
        folder = self.lab.host_directory(host.name)
        program = sshd.find_program("sshd", "openssh-server")
        return {
            "isolate": False,
            "cgroups": [],
            "empty": [str(folder / "tmp")],
            "network": "",
            "sshd": [program, "-D", "-e", "-f", str(folder / "etc" / "sshd_config")],
            "listen": [host.address, self.lab.port],
            "environment": {"PATH": sshd.SYSTEM_PATH},
        }

    def wire(self, pids: Mapping[LabHost, int]) -> None:
        """Do nothing: the loopback network is there already."""

    def switch_off(self, host: LabHost) -> None:
        """End every process of the host; peers see closed connections, not silence."""
        kill_hosts(self.lab.host_directory(host.name))

    def freeze(self, host: LabHost) -> None:
        """Stop every process of the host."""
        folder = self.lab.host_directory(host.name)
        processes.stop(lambda: processes.with_descendants(processes.marked(folder)))

    def thaw(self, host: LabHost) -> None:
        """Let a frozen host go on."""
        folder = self.lab.host_directory(host.name)
        processes.send(processes.with_descendants(processes.marked(folder)), signal.SIGCONT)

    def cut(self, host: LabHost, direction: str) -> None:
        """Refuse: there is no link to cut.

        Raises InputError.
        """
        raise _needs_namespaces({"both": "cut"}.get(direction, f"cut-{direction}"), host)

    def rejoin(self, host: LabHost) -> None:
        """Do nothing: the host cannot be cut off."""

    def fill_disk(self, host: LabHost) -> None:
        """Refuse: the host's disk is this machine's.

        Raises InputError.
        """
        raise _needs_namespaces("disk-full", host)

    def free_disk(self, host: LabHost) -> None:
        """Do nothing: the disk cannot be filled."""

    def hang_home(self, host: LabHost) -> None:
        """Refuse: the host's home is a folder of this machine.

        Raises InputError.
        """
        raise _needs_namespaces("hang-home", host)

    def answer_home(self, host: LabHost) -> None:
        """Do nothing: the home cannot hang."""


def free_port(addresses: Sequence[str]) -> int:
    """Return a port that is free on every one of these addresses.

    Raises RoomfulError where none is found.
    """
    for port in random.sample(PORTS, 200):
        if all(_is_free(address, port) for address in addresses):
            return port
    raise RoomfulError("no free port for the hosts' servers", where="127.0.0.0/8")


def kill_hosts(folder: Path) -> None:
    """End every process of one host's folder, or of all hosts below a lab's folder.

    The init goes last: what its host's processes leave behind becomes its child, and so is found here.
    """

    def others() -> set[int]:
        return processes.with_descendants(processes.marked(folder)) - processes.inits(folder)

    processes.send(processes.inits(folder), signal.SIGCONT)
    processes.kill(others)
    processes.kill(lambda: processes.with_descendants(processes.marked(folder)))


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _needs_namespaces(how: str, host: LabHost) -> InputError:
    return InputError(
        f"a rootless lab cannot do {how!r}", where=host.name, fix="start a lab as root without --rootless"
    )
