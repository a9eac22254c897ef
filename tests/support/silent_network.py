"""A network of mostly silent addresses behind a router, in network namespaces: for the tests and the benchmark of
discovery. Needs root and iproute2; nothing in it has a route to anywhere else.

::

    scanner ──────── router ──────── hosts: those that are up; packets to all other addresses get no answer
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = ipaddress.IPv4Network("10.77.0.0/20")
#: Answers on port 22 of the addresses given, until it is killed.
LISTENER = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
for address in sys.argv[1:]:
    server = socket.create_server((address, 22), backlog=64)
    selector.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
#: A name server that is never reached: the router drops what is sent there.
BLACK_HOLE = "nameserver 10.99.9.9\n"


@dataclass(frozen=True)
class SilentNetwork:
    """The network's hosts by how they answer on port 22, and the namespaces to scan it from."""

    network: ipaddress.IPv4Network
    scanner: str
    #: The last hop: from here the hosts are on the same Ethernet, if the router resolves their addresses.
    router: str
    open: frozenset[str]
    closed: frozenset[str]
    filtered: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def up(self) -> frozenset[str]:
        """All hosts that are up."""
        return self.open | self.closed | self.filtered

    def argv(self, *command: str, inside: str = "", ordinary_user: bool = False) -> list[str]:
        """Return the argv that runs a command in a namespace of this network (default: the scanner's)."""
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if ordinary_user else []
        return ["ip", "netns", "exec", inside or self.scanner, *user, *command]

    def forget(self) -> None:
        """Make the router forget which hosts it knows, as if nobody had talked to them."""
        _ip("-n", self.router, "neigh", "flush", "all")


@contextlib.contextmanager
def silent_network(
    network: ipaddress.IPv4Network = NETWORK,
    *,
    seed: int = 1,
    counts: tuple[int, int, int] = (50, 5, 5),
    resolving: bool = False,
    names: Mapping[str, str] | None = None,
) -> Iterator[SilentNetwork]:
    """Build the network with so many hosts that are open, closed and filtered, at random addresses.

    ``resolving``: the router finds the hosts by ARP, and holds at most 1,024 addresses that it asks for; else it has
    a route to all of them. ``names`` are those that the scanner knows, by address; no name server answers.
    """
    places = random.Random(seed).sample(range(1, network.num_addresses - 1), sum(counts))
    chosen = [str(network[place]) for place in places]
    groups = (chosen[: counts[0]], chosen[counts[0] : counts[0] + counts[1]], chosen[counts[0] + counts[1] :])
    base = f"rfq{os.getpid()}"
    scanner, router, hosts = (f"{base}{letter}" for letter in "srh")
    with contextlib.ExitStack() as stack:
        for name in (scanner, router, hosts):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _wire(scanner, router, hosts, network, resolving)
        _addresses(hosts, chosen)
        for address in groups[2]:
            _ip("-n", router, "rule", "add", "to", address, "ipproto", "tcp", "dport", "22", "blackhole")
        _configure(stack, scanner, names or {})
        listener = subprocess.Popen(
            ["ip", "netns", "exec", hosts, sys.executable, "-I", "-S", "-c", LISTENER, *groups[0]],
            stdout=subprocess.PIPE,
        )
        stack.callback(listener.wait)
        stack.callback(listener.kill)
        assert listener.stdout
        stack.callback(listener.stdout.close)
        assert listener.stdout.readline() == b"ready\n"
        yield SilentNetwork(network, scanner, router, *(frozenset(group) for group in groups), names or {})


def _wire(scanner: str, router: str, hosts: str, network: ipaddress.IPv4Network, resolving: bool) -> None:
    for near, far, subnet in ((scanner, router, 0), (router, hosts, 4)):
        names = [f"to-{far[-1]}", f"to-{near[-1]}"]
        _ip("link", "add", names[0], "netns", near, "type", "veth", "peer", "name", names[1], "netns", far)
        for at, (space, name) in enumerate(zip((near, far), names, strict=True), 1):
            _ip("-n", space, "addr", "add", f"10.99.0.{subnet + at}/30", "dev", name)
            _ip("-n", space, "link", "set", name, "up")
    _ip("-n", scanner, "route", "add", "default", "via", "10.99.0.2")
    _ip("-n", hosts, "route", "add", "default", "via", "10.99.0.5")
    _ip("-n", router, "route", "add", "blackhole", "default")
    _ip("-n", router, "route", "add", str(network), *(("dev", "to-h") if resolving else ("via", "10.99.0.6")))
    for space in (router, hosts):
        _run("ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    # Not "unreachable": nothing may say that an address is not in use.
    _ip("-n", hosts, "route", "add", "blackhole", str(network))


def _addresses(space: str, addresses: Sequence[str]) -> None:
    lines = "".join(f"addr add {address}/32 dev lo\n" for address in addresses)
    subprocess.run(["ip", "-n", space, "-batch", "-"], input=lines.encode(), check=True)


def _configure(stack: contextlib.ExitStack, scanner: str, names: Mapping[str, str]) -> None:
    """Give the scanner's namespace files of its own in /etc, see ip-netns(8)."""
    folder = Path("/etc/netns") / scanner
    folder.mkdir(parents=True)
    stack.callback(shutil.rmtree, folder)
    (folder / "resolv.conf").write_text(BLACK_HOLE)
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in names.items()))


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
