"""What a lab is: its options, its hosts, and every name derived from the lab's name. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from roomful.errors import InputError
from roomful.hosts import Host, parse_host

#: A lab's name ends up in file names, in the names of a network namespace and of cgroups, and in a domain name.
LAB_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
#: Each host and the controller remember each other's address, and the kernel keeps 1,024 such entries for all
#: namespaces together (arp(7), gc_thresh3).
MOST_HOSTS = 500
#: More hosts than this do not fit a /24 with room for the controller.
MOST_HOSTS_IN_24 = 250
#: The account on the hosts of a lab with namespaces.
STUDENT = "student"
STUDENT_ID = 20001
#: How sshd limits connections that have not logged in yet (its own default, 10:30:100, drops some of 64 at once).
MAX_STARTUPS = "500:30:1000"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class LabOptions:
    """How a lab is to be: what ``lab.up`` was asked for.

    ``rootless`` None means: namespaces for root, user-mode servers for everyone else. ``host_list`` is the file that
    the lab writes its host list to; empty: none is written. Sizes are bytes, ``cpus`` is CPUs a host,
    ``uplink`` bits a second each way between the controller and all hosts together. With a ``password`` the servers
    also let the user in who knows it; it is this lab's own, and no secret.
    """

    count: int = 4
    name: str = "lab"
    shared_home: bool = False
    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None
    off: tuple[str, ...] = ()
    refuse_key: tuple[str, ...] = ()
    uplink: int | None = None
    user: str = ""
    rootless: bool | None = None
    subnet: str = ""
    password: str = ""
    max_startups: str = MAX_STARTUPS
    host_list: str = ""

    def checked(self, uid: int, account: str) -> LabOptions:
        """Return the options with every default decided for this uid and account name.

        Raises InputError for anything that cannot be built.
        """
        if not LAB_NAME.fullmatch(self.name):
            fix = "use lower-case letters, digits and '-', at most 32, a letter first"
            raise InputError(f"bad lab name {self.name!r}", where="--name", fix=fix)
        if not 1 <= self.count <= MOST_HOSTS:
            fix = f"write a number from 1 to {MOST_HOSTS}"
            raise InputError(f"cannot build {self.count} hosts", where="--count", fix=fix)
        rootless = uid != 0 if self.rootless is None else self.rootless
        if not rootless and uid != 0:
            raise InputError("namespaces need root", where="--no-rootless", fix="run as root, or leave it out")
        self._check_hosts()
        self._check_limits(rootless)
        self._check_user(rootless, account)
        if not re.fullmatch(r"[0-9]{1,6}(:[0-9]{1,3}:[0-9]{1,6})?", self.max_startups):
            fix = "write START:RATE:FULL as in sshd_config, such as 10:30:100"
            raise InputError(f"bad value {self.max_startups!r}", where="--max-startups", fix=fix)
        return dataclasses.replace(
            self,
            rootless=rootless,
            user=self.user or (account if rootless else STUDENT),
            subnet=str(self._network(rootless)) if self.subnet else "",
        )

    def _check_hosts(self) -> None:
        names = set(host_names(self.count))
        for flag, hosts in (("--off", self.off), ("--refuse-key", self.refuse_key)):
            for host in hosts:
                if host not in names:
                    fix = f"the hosts are {host_names(self.count)[0]} to {host_names(self.count)[-1]}"
                    raise InputError(f"there is no host {host!r} in this lab", where=flag, fix=fix)

    def _check_limits(self, rootless: bool) -> None:
        namespaced = {
            "--cpus": self.cpus,
            "--memory": self.memory,
            "--disk": self.disk,
            "--uplink": self.uplink,
            "--shared-home": self.shared_home or None,
            "--password": True if self.password else None,
        }
        for flag, value in namespaced.items():
            if value is None:
                continue
            if rootless:
                why = "a rootless lab cannot do this"
                raise InputError("needs namespaces", where=flag, why=why, fix="run as root without --rootless")
            if not 0 < value < math.inf:
                raise InputError(f"bad value {value}", where=flag, fix="write a number above 0")
        if self.memory is not None and self.memory < 64 * MEBIBYTE:
            raise InputError("a host needs memory for sshd and python3", where="--memory", fix="give at least 64MB")
        if self.cpus is not None and self.cpus < 0.01:
            raise InputError(f"bad value {self.cpus}", where="--cpus", fix="give at least 0.01")
        if self.disk is not None and self.disk < MEBIBYTE:
            raise InputError("too small a disk", where="--disk", fix="give at least 1MB")
        if self.uplink is not None and self.uplink < 100_000:
            raise InputError("too slow an uplink", where="--uplink", fix="give at least 100kbit")

    def _check_user(self, rootless: bool, account: str) -> None:
        allowed = (account,) if rootless else (STUDENT, "root")
        if self.user and self.user not in allowed:
            why = "a rootless lab logs in as yourself" if rootless else ""
            fix = f"choose {' or '.join(allowed)}"
            raise InputError(f"no account {self.user!r} on the hosts", where="--user", why=why, fix=fix)

    def _network(self, rootless: bool) -> ipaddress.IPv4Network:
        fix = f"write one such as {'127.83.7.0/24' if rootless else '10.83.7.0/24'}"
        try:
            network = ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            raise InputError(f"bad subnet {self.subnet!r}", where="--subnet", why=str(error), fix=fix) from None
        loopback = network.subnet_of(ipaddress.IPv4Network("127.0.0.0/8"))
        if rootless != loopback or not (loopback or network.is_private):
            why = "a rootless lab lives in 127.0.0.0/8" if rootless else "a lab lives in a private network"
            raise InputError(f"cannot use {network}", where="--subnet", why=why, fix=fix)
        if network.prefixlen < 16 or network.num_addresses < self.count + 3:
            why = f"it has {network.num_addresses} addresses"
            raise InputError(f"{network} does not suit {self.count} hosts", where="--subnet", why=why, fix=fix)
        return network

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabOptions:
        """Read what ``as_json`` wrote."""
        changed = {key: tuple(values[key]) for key in ("off", "refuse_key")}
        return cls(**{**values, **changed})


@dataclass(frozen=True)
class LabHost:
    """One host of a lab: its short name, full name, address, and what is wrong with it on purpose."""

    name: str
    full_name: str
    address: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lab:
    """A lab that is up: where its hosts are and how to log in to them.

    ``fresh`` is true where this call of ``up`` has brought it up.
    """

    options: LabOptions
    directory: Path
    subnet: str
    port: int
    hosts: tuple[LabHost, ...]
    fresh: bool = False

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.options.name

    @property
    def rootless(self) -> bool:
        """True where the hosts are user-mode servers on the loopback network."""
        return bool(self.options.rootless)

    @property
    def netns(self) -> str | None:
        """The controller's network namespace; None for a rootless lab."""
        return None if self.rootless else netns_name(self.name)

    @property
    def user(self) -> str:
        """The account to log in with."""
        return self.options.user

    @property
    def ssh_config(self) -> Path:
        """The OpenSSH client configuration that reaches every host."""
        return self.directory / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """The hosts' keys."""
        return self.directory / "known_hosts"

    @property
    def identity_file(self) -> Path:
        """The private key that logs in."""
        return self.directory / "id_ed25519"

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The subnet, as a value to compute with."""
        return ipaddress.IPv4Network(self.subnet)

    @property
    def controller_address(self) -> str:
        """The controller's own address in the lab's network."""
        return "127.0.0.1" if self.rootless else str(self.network.broadcast_address - 1)

    @property
    def entries(self) -> tuple[Host, ...]:
        """The hosts as entries of a host list."""
        return tuple(host_entry(self, host) for host in self.hosts)

    def host(self, name: str) -> LabHost:
        """Return the host of this short name, full name or address.

        Raises InputError where there is none.
        """
        for host in self.hosts:
            if name in (host.name, host.full_name, host.address):
                return host
        fix = f"the hosts are {self.hosts[0].name} to {self.hosts[-1].name}"
        raise InputError(f"there is no host {name!r} in the lab {self.name!r}", fix=fix)

    def host_directory(self, name: str) -> Path:
        """Return the folder that holds a host's disk, configuration and log."""
        return self.directory / "hosts" / name

    def as_json(self) -> dict[str, Any]:
        """Return what ``lab.list --json`` prints."""
        return {
            "name": self.name,
            "rootless": self.rootless,
            "netns": self.netns,
            "subnet": self.subnet,
            "port": self.port,
            "user": self.user,
            "controller_address": self.controller_address,
            "ssh_config": str(self.ssh_config),
            "known_hosts": str(self.known_hosts),
            "host_list": self.options.host_list,
            "hosts": [dataclasses.asdict(host) for host in self.hosts],
        }


def host_names(count: int) -> list[str]:
    """Return lab01, lab02, ..., all of one width."""
    width = max(2, len(str(count)))
    return [f"lab{number:0{width}}" for number in range(1, count + 1)]


def make_hosts(options: LabOptions, subnet: str) -> tuple[LabHost, ...]:
    """Return the hosts with their addresses: the subnet's first ones, in order."""
    first = ipaddress.IPv4Network(subnet).network_address + 1
    return tuple(
        LabHost(name, f"{name}.{options.name}.test", str(first + index))
        for index, name in enumerate(host_names(options.count))
    )


def netns_name(lab: str) -> str:
    """Return the name of the lab's controller network namespace."""
    return f"rf-{lab}"


def cgroup_name(lab: str) -> str:
    """Return the name of the lab's folder in each cgroup hierarchy."""
    return f"roomful-lab-{lab}"


def host_entry(lab: Lab, host: LabHost, name: str = "") -> Host:
    """Return a host as an entry of a host list, under its short name or under ``name``."""
    attributes = {"address": host.address, "ssh_config": str(lab.ssh_config)}
    if lab.netns:
        attributes["netns"] = lab.netns
    label = parse_host(name or host.name)
    return dataclasses.replace(label, attributes=MappingProxyType(attributes))


def candidate_subnets(count: int, rootless: bool) -> list[str]:
    """Return the networks that a lab of this size may take, in order of preference."""
    first_byte = 127 if rootless else 10
    if count <= MOST_HOSTS_IN_24:
        return [f"{first_byte}.83.{third}.0/24" for third in range(1, 256)]
    return [f"{first_byte}.83.{third}.0/20" for third in range(0, 256, 16)]
