"""Discover the hosts of a network, by a scan or from a saved nmap report, and give them their names."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roomful.errors import InputError
from roomful.hosts import Host
from roomful.names import confirmed_name, contradicted, look_up_all
from roomful.nmap import RATE, ScanOptions
from roomful.nmap_report import UpHost, read_report
from roomful.scan import OnProgress, Scan

#: More addresses than this (a /16) take an explicit yes.
MOST_ADDRESSES = 65_536


@dataclass(frozen=True)
class Discovery:
    """The hosts that are up, by address, and what the reader should know besides.

    ``addresses`` is how many were asked, 0 for a report; ``seconds`` what it took, names included.
    """

    hosts: tuple[UpHost, ...]
    addresses: int
    seconds: float
    notes: tuple[str, ...] = ()


def parse_networks(text: str, *, large: bool = False) -> tuple[ipaddress.IPv4Network, ...]:
    """Read a comma list of IPv4 networks (``10.0.0.0/24``) and addresses; overlapping ones become one.

    Raises InputError for anything else, and for more than a /16 unless ``large``.
    """
    example = "write one such as 10.0.0.0/24, several with commas"
    networks = []
    for word in text.split(","):
        try:
            # Not strict: nmap and the people who use it write a host's address and its network's length.
            network = ipaddress.ip_network(word.strip(), strict=False)
        except ValueError:
            what = f"bad network {word.strip()!r}" if text.strip() else "no network given"
            raise InputError(what, where="--network", fix=example) from None
        if not isinstance(network, ipaddress.IPv4Network):
            why = "only IPv4 networks are small enough"
            raise InputError(f"cannot scan {network}", where="--network", why=why, fix=example)
        networks.append(network)
    collapsed = tuple(ipaddress.collapse_addresses(networks))
    count = sum(network.num_addresses for network in collapsed)
    if count > MOST_ADDRESSES and not large:
        minutes = math.ceil(3 * count / RATE / 60)
        fix = f"give --yes if you mean it: it takes {minutes:,} minutes or more"
        why = f"{count:,} addresses, more than a /16"
        raise InputError(f"{text.strip()} is large", where="--network", why=why, fix=fix)
    return collapsed


def discover(
    networks: Sequence[ipaddress.IPv4Network], options: ScanOptions, on_progress: OnProgress | None = None
) -> Discovery:
    """Scan networks for hosts that are up and say whether the SSH port of each answers; then look up their names.

    As root nmap sends raw packets; otherwise it opens connections, and asks port 443 instead of ICMP echo. Raises
    MissingProgram, and RoomfulError when nmap fails or there is no route to any address.
    """
    start = time.monotonic()
    scan = Scan(networks, options, on_progress)
    scan.run()
    found = sorted(scan.up.values(), key=_by_address)
    names = look_up_all(confirmed_name, (host.address for host in found), options.dns_timeout)
    if options.dns_timeout and len(names) < len(found):
        late = len(found) - len(names)
        scan.notes.append(f"the name server left {late} of {len(found)} addresses unanswered: they have no name here")
    hosts, shared = _without_shared_names([replace(host, name=names.get(host.address, "")) for host in found])
    return Discovery(hosts, scan.addresses, time.monotonic() - start, (*scan.notes, *shared))


def from_report(path: Path, options: ScanOptions) -> Discovery:
    """Take the hosts from a saved nmap report (XML, grepable or normal output) instead of scanning.

    A name that resolves elsewhere than to its address is dropped; one that does not resolve here stays, because a
    report may be read away from its network. Raises InputError for a report that cannot be read.
    """
    start = time.monotonic()
    found = sorted(read_report(path, options.port), key=_by_address)
    wrong = contradicted({host.address: host.name for host in found if host.name}, options.dns_timeout)
    notes = [
        f"{host.address}: its name {host.name} resolves elsewhere and is not used"
        for host in found
        if host.address in wrong
    ]
    hosts, shared = _without_shared_names(
        [replace(host, name="") if host.address in wrong else host for host in found]
    )
    return Discovery(hosts, 0, time.monotonic() - start, (*notes, *shared))


def matching(hosts: Iterable[UpHost], match: str) -> tuple[UpHost, ...]:
    """Keep the hosts whose name (without one: whose address) fits one of the words in a comma list; "" keeps all.

    ``.enseeiht.fr`` fits names that end so, ``node*`` is a pattern for the whole name, and any other word fits where
    it occurs in the name.
    """
    words = [word.strip().lower() for word in match.split(",") if word.strip()]
    return tuple(host for host in hosts if not words or any(_fits(host.name or host.address, word) for word in words))


def usable(hosts: Iterable[UpHost]) -> tuple[UpHost, ...]:
    """Keep the hosts whose SSH port is open, and those of which a report does not tell."""
    return tuple(host for host in hosts if host.port_state in ("open", "unknown"))


def entry_of(host: UpHost, port: int) -> Host:
    """Return a host as an entry of a host list: by its name where it has one."""
    return Host(host.name or host.address, port=None if port == 22 else port)


def _fits(name: str, word: str) -> bool:
    if "*" in word or "?" in word:
        pattern = re.escape(word).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, name) is not None
    return name.endswith(word) if word.startswith(".") else word in name


def _by_address(host: UpHost) -> tuple[int, int]:
    address = ipaddress.ip_address(host.address)
    return address.version, int(address)


def _without_shared_names(hosts: Sequence[UpHost]) -> tuple[tuple[UpHost, ...], tuple[str, ...]]:
    """Take a name away from all its addresses if it has several: SSH would reach any one of them."""
    counts = Counter(host.name for host in hosts if host.name)
    shared = {name for name, count in counts.items() if count > 1}
    notes = tuple(f"{name} is the name of {counts[name]} addresses: these are used" for name in sorted(shared))
    return tuple(replace(host, name="") if host.name in shared else host for host in hosts), notes
