"""Scan a network for hosts that are up, and tell whether the SSH port of each answers.

How it is both quick and complete: three quick passes over all addresses (SYN to the SSH port, ICMP echo, SYN again),
one packet an address each, at a fixed rate instead of nmap's cautious one. The reply to a SYN says at once that the
host is up and whether the port is open. The two SYN passes ask the same: how far their answers differ tells how many
packets this network loses, and where a host may have been missed a last pass at nmap's own pace follows.
"""

from __future__ import annotations

import ipaddress
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from roomful import nmap
from roomful.errors import RoomfulError
from roomful.nmap import ScanOptions
from roomful.nmap_report import PortState, UpHost

Networks = Sequence[ipaddress.IPv4Network]

#: Called with how many addresses are done (each pass counts for its share of all), their number, and a short note.
OnProgress = Callable[[float, float, str], None]

#: What nmap's reason for a host being up says of the port that was asked.
PORT_STATE_OF: dict[str, PortState] = {"syn-ack": "open", "reset": "closed", "conn-refused": "closed"}
#: The port was never asked: hosts on our own Ethernet are found by ARP, our own addresses by looking.
PORT_NOT_ASKED = frozenset({"arp-response", "localhost-response", "user-set"})
#: Linux holds at most 1,024 addresses that it resolves on the last hop (gc_thresh3), for all networks together, and
#: gives up on one after 3 s. Until then packets to further addresses are dropped.
NEIGHBOURS = 512
NEIGHBOUR_SECONDS = 3.3


def maybe_missed(first: set[str], second: set[str]) -> bool:
    """Tell from two passes that asked the same whether both may well have missed a host.

    A pass that misses m of n hosts misses each with probability m/n; both together miss n * (m/n)^2. From half a host
    on that is "may well". The worse pass counts: a router that drops what comes too fast knows a host once it has
    answered, so that the second pass finds what the first did, and more.
    """
    either = len(first | second)
    missed = max(len(second - first), len(first - second))
    return either > 0 and missed * missed / either >= 0.5


def maybe_cut_short(found: Iterable[str]) -> bool:
    """Tell whether a pass may have found only what it asked first.

    Nmap asks a batch of hosts in the order of their last bytes. These should be spread evenly over what was found:
    the one-sided Kolmogorov-Smirnov bound exp(-2 n D^2) says how likely it is that they lean so far to the low side
    by chance. One in five counts as unlikely: a false alarm costs two seconds.
    """
    ranks = sorted(int(ipaddress.IPv4Address(address)) % 256 / 256 for address in found)
    lean = max((place / len(ranks) - rank for place, rank in enumerate(ranks, 1)), default=0.0)
    return not ranks or math.exp(-2 * len(ranks) * lean * lean) < 1 / 5


def blocks(networks: Networks) -> list[ipaddress.IPv4Network]:
    """Cut networks into /24s in random order: two passes over a large network differ in what they ask when."""
    cut = [block for network in networks for block in _cut(network, 24)]
    random.shuffle(cut)
    return cut


def upper_half_first(networks: Networks) -> tuple[list[ipaddress.IPv4Network], list[ipaddress.IPv4Network]]:
    """Cut networks into what nmap asks last (last bytes from 128 on) and what it asks first."""
    cut = [block for network in blocks(networks) for block in _cut(network, 25)]
    upper = [block for block in cut if int(block.network_address) & 128]
    return upper, [block for block in cut if not int(block.network_address) & 128]


def _cut(network: ipaddress.IPv4Network, length: int) -> Iterable[ipaddress.IPv4Network]:
    return network.subnets(new_prefix=length) if network.prefixlen < length else [network]


class Scan:
    """One scan: what is known so far, and the passes that add to it. After ``run``, ``up`` has the hosts by address.

    ``notes`` says what the user should know about how complete that is. Nmap sends raw packets where it may; else it
    opens connections, and asks port 443 instead of ICMP echo.
    """

    def __init__(self, networks: Networks, options: ScanOptions, on_progress: OnProgress | None = None) -> None:
        self.networks = networks
        self.options = options
        self.raw = nmap.can_send_raw()
        self.addresses = sum(network.num_addresses for network in networks)
        self.up: dict[str, UpHost] = {}
        self.notes: list[str] = []
        self._on_progress = on_progress
        self._done = 0
        self._to_do = 3 * self.addresses
        self._remark = ""

    def run(self) -> None:
        """Make all passes that this network needs.

        Raises MissingProgram, and RoomfulError when nmap fails or there is no route to any address.
        """
        syn = f"-PS{self.options.port}"
        # What drops SSH but answers to this is up: nobody can use it, but its owner can see why. What drops both is
        # of no use here, and finding it by its other ports would double the packets.
        other = "-PE" if self.raw else "-PS443"
        start = time.monotonic()
        first = self._quick_pass(syn, blocks(self.networks))
        self._quick_pass(other, blocks(self.networks))
        if self._cut_short(first):
            # What a router dropped in the first pass it would drop again: wait until it has forgotten what it asked
            # for in vain, and begin at the other end.
            time.sleep(max(0.0, start + NEIGHBOUR_SECONDS - time.monotonic()))
            upper, lower = upper_half_first(self.networks)
            second = self._quick_pass(syn, upper) | self._quick_pass(syn, lower)
        else:
            second = self._quick_pass(syn, blocks(self.networks))
        lossy = maybe_missed(first, second)
        if lossy:
            self._patient_pass()
        self._ask_ports(self._portless(sure=not lossy))

    def _cut_short(self, found: set[str]) -> bool:
        by_arp = any(self.up[address].reason == "arp-response" for address in found)
        return self.addresses > NEIGHBOURS and not by_arp and maybe_cut_short(found)

    def _quick_pass(self, probe: str, targets: Networks) -> set[str]:
        if not targets:
            return set()
        arguments = nmap.quick_pass(probe, self.options, raw=self.raw)
        return self._pass(arguments, targets, tells_port=probe == f"-PS{self.options.port}")

    def _patient_pass(self) -> None:
        if self.options.quick:
            self.notes.append("this network loses packets: hosts may be missing (leave out --quick)")
            return
        known = len(self.up)
        self._to_do += self.addresses
        self._remark = ", packets were lost: all is asked again slowly"
        self._pass(nmap.patient_pass(self.options, raw=self.raw), blocks(self.networks), tells_port=False)
        more = len(self.up) - known
        self.notes.append(
            f"this network loses packets: all was asked again at nmap's own pace, which found {more} more"
        )

    def _pass(self, arguments: Sequence[str], targets: Networks, *, tells_port: bool) -> set[str]:
        """Run nmap and return the addresses that are up; ``tells_port``: it asked nothing but the SSH port."""
        found: set[str] = set()
        size = sum(network.num_addresses for network in targets)
        batch = 0
        percent = 0.0

        def on_host(host: UpHost) -> None:
            found.add(host.address)
            state = PORT_STATE_OF.get(host.reason, "unknown") if tells_port else "unknown"
            if host.address not in self.up or self.up[host.address].port_state == "unknown":
                self.up[host.address] = replace(host, port_state=state)

        def on_percent(now: float) -> None:
            nonlocal batch, percent
            batch += now < percent
            percent = now
            before = min(nmap.BATCH * batch, size)
            self._progress(before + min(nmap.BATCH, size - before) * percent / 100)

        asked = nmap.run(arguments, targets, self.options.port, on_host, on_percent)
        if not self._done:
            self._check_routes(asked)
        self._done += size
        self._progress(0)
        return found

    def _progress(self, here: float) -> None:
        if self._on_progress:
            share = (self._done + here) / self._to_do
            self._on_progress(share * self.addresses, self.addresses, f"{len(self.up)} up{self._remark}")

    def _check_routes(self, asked: int) -> None:
        missing = self.addresses - asked
        if not asked:
            networks = ", ".join(str(network) for network in self.networks)
            raise RoomfulError(f"no route to {networks}", fix="is this machine connected to it?")
        if missing > 0:
            self.notes.append(f"no route to {missing:,} of the {self.addresses:,} addresses: they were not asked")

    def _portless(self, *, sure: bool) -> list[str]:
        """Return the hosts whose SSH port must still be asked; where both passes did so in vain, it is filtered."""
        ask = []
        for address, host in self.up.items():
            if host.port_state == "unknown":
                self.up[address] = replace(host, port_state="filtered")
                if not sure or host.reason in PORT_NOT_ASKED:
                    ask.append(address)
        return ask

    def _ask_ports(self, addresses: Sequence[str]) -> None:
        def on_host(host: UpHost) -> None:
            self.up[host.address] = replace(self.up[host.address], port_state=host.port_state)

        if addresses:
            nmap.run(nmap.port_pass(self.options, raw=self.raw), addresses, self.options.port, on_host)
