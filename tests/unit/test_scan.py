"""How a scan goes over a network, against networks that are simulated: complete, lossy, and cut short by a router."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from roomful import nmap
from roomful.errors import RoomfulError
from roomful.nmap import ScanOptions
from roomful.nmap_report import UpHost
from roomful.scan import NEIGHBOUR_SECONDS, Scan, blocks, maybe_cut_short, maybe_missed, upper_half_first

NETWORK = ipaddress.IPv4Network("10.77.0.0/20")


@dataclass
class Simulated:
    """A network: how each host answers to a SYN on port 22, and which packets get through.

    ``answers``: by address "open", "closed" or "filtered" (up, but silent on the port). ``passes``: the probes of
    each run of nmap; ``asked``: its targets. ``loses(address)`` tells whether a quick pass loses the packet.
    """

    answers: dict[str, str]
    loses: Callable[[str], bool] = lambda address: False
    by_arp: bool = False
    routes: int | None = None
    passes: list[str] = field(default_factory=list)
    asked: list[set[str]] = field(default_factory=list)

    def run(
        self,
        arguments: Sequence[str],
        targets: Iterable[object],
        port: int,
        on_host: Callable[[UpHost], None],
        on_percent: Callable[[float], None] | None = None,
    ) -> int:
        addresses = [str(a) for target in targets for a in ipaddress.IPv4Network(str(target))]
        kind = self._kind(arguments)
        self.passes.append(kind)
        self.asked.append(set(addresses))
        # Nmap's own order: by last bytes.
        for address in sorted(addresses, key=lambda address: [int(part) for part in reversed(address.split("."))]):
            answer = self.answers.get(address)
            if answer and kind == "ports":
                on_host(UpHost(address, port_state=answer, reason="user-set"))  # type: ignore[arg-type]
            elif answer and (kind == "patient" or not self.loses(address)):
                reason = self._reason(kind, answer)
                if reason:
                    on_host(UpHost(address, reason=reason))
        if on_percent:
            for percent in (50.0, 100.0):
                on_percent(percent)
        return len(addresses) if self.routes is None else self.routes

    def _kind(self, arguments: Sequence[str]) -> str:
        if "-Pn" in arguments:
            return "ports"
        if "--min-rate" not in arguments:
            return "patient"
        return {"-PS22": "syn", "-PE": "echo", "-PS443": "https"}[arguments[-1]]

    def _reason(self, kind: str, answer: str) -> str:
        if self.by_arp:
            return "arp-response"
        if kind in ("echo", "patient"):
            return "echo-reply"
        if kind == "https":
            return "conn-refused"
        return {"open": "syn-ack", "closed": "reset", "filtered": ""}[answer]


def some_hosts(count: int = 60) -> dict[str, str]:
    """Hosts spread evenly over the network, one in twelve closed and one in twelve filtered."""
    states = ["closed", "filtered", *["open"] * 10]
    step = NETWORK.num_addresses // count
    return {str(NETWORK[at * step + 7 * at % 16]): states[at % 12] for at in range(count)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits for a router: what would have been slept."""
    slept: list[float] = []
    # Only the scan's: threads that other tests have left may be asleep.
    monkeypatch.setattr("roomful.scan.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    return slept


def scan(
    network: Simulated,
    monkeypatch: pytest.MonkeyPatch,
    *,
    raw: bool = True,
    options: ScanOptions | None = None,
    networks: Sequence[ipaddress.IPv4Network] = (NETWORK,),
) -> Scan:
    monkeypatch.setattr(nmap, "run", network.run)
    monkeypatch.setattr(nmap, "can_send_raw", lambda: raw)
    scan = Scan(networks, options or ScanOptions())
    scan.run()
    return scan


def states(scan: Scan) -> dict[str, str]:
    return {address: host.port_state for address, host in scan.up.items()}


def test_three_quick_passes_find_all_and_what_their_ports_say(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    network = Simulated(some_hosts())
    done = scan(network, monkeypatch)
    assert states(done) == network.answers
    assert network.passes == ["syn", "echo", "syn"]
    assert [len(asked) for asked in network.asked] == [4096] * 3
    assert (done.notes, clock) == ([], [])


def test_without_raw_packets_https_stands_in_for_echo(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated(some_hosts())
    assert states(scan(network, monkeypatch, raw=False)) == network.answers
    assert network.passes == ["syn", "https", "syn"]


def test_hosts_found_by_arp_are_asked_for_their_port(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated(some_hosts(), by_arp=True)
    assert states(scan(network, monkeypatch)) == network.answers
    assert network.passes == ["syn", "echo", "syn", "ports"]
    assert network.asked[-1] == set(network.answers)


def test_a_few_lost_packets_cost_nothing(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    lost = set(random.Random(1).sample(sorted(some_hosts()), 3))

    def loses(address: str) -> bool:
        first = address in lost
        lost.discard(address)
        return first

    network = Simulated(some_hosts(), loses)
    assert states(scan(network, monkeypatch)) == network.answers
    assert network.passes == ["syn", "echo", "syn"]


def lossy() -> Callable[[str], bool]:
    chance = random.Random(7)
    return lambda address: chance.random() < 0.3


def test_many_lost_packets_add_a_patient_pass(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated(some_hosts(), lossy())
    done = scan(network, monkeypatch)
    assert states(done) == network.answers
    assert network.passes[:4] == ["syn", "echo", "syn", "patient"]
    assert "loses packets: all was asked again at nmap's own pace, which found" in done.notes[0]


def test_quick_leaves_the_patient_pass_out_and_says_so(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated(some_hosts(), lossy())
    done = scan(network, monkeypatch, options=ScanOptions(quick=True))
    assert "patient" not in network.passes
    assert done.notes == ["this network loses packets: hosts may be missing (leave out --quick)"]


class Router:
    """Resolves 1,000 addresses on its last hop and drops what comes for others; answering hosts stay known.

    A wait makes it forget the rest, as Linux does after three seconds.
    """

    def __init__(self, slept: list[float]) -> None:
        self.slept = slept
        self.forgot = 0
        self.known: set[str] = set()
        self.asked = 0

    def loses(self, address: str) -> bool:
        if len(self.slept) > self.forgot:
            self.forgot, self.asked = len(self.slept), 0
        if address in self.known:
            return False
        # Only hosts that are up are asked about here, one in 68 addresses.
        self.asked += 68
        if self.asked > 1000:
            return True
        self.known.add(address)
        return False


def test_a_router_that_drops_the_same_in_every_pass_is_found_out(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    network = Simulated(some_hosts(), Router(clock).loses)
    done = scan(network, monkeypatch)
    assert states(done) == network.answers
    assert network.passes == ["syn", "echo", "syn", "syn", "patient", "ports"]
    assert 0 < clock[0] <= NEIGHBOUR_SECONDS
    upper, lower = network.asked[2:4]
    assert (len(upper), len(lower)) == (2048, 2048)
    assert all(int(address.rpartition(".")[2]) >= 128 for address in upper)


def test_an_empty_network_is_asked_from_its_other_end_too(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    network = Simulated({})
    assert scan(network, monkeypatch).up == {}
    assert network.passes == ["syn", "echo", "syn", "syn"]


def test_a_small_network_fits_into_any_router(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated({"10.77.0.1": "open"})
    done = scan(network, monkeypatch, networks=[ipaddress.IPv4Network("10.77.0.0/24")])
    assert states(done) == {"10.77.0.1": "open"}
    assert (network.passes, clock) == (["syn", "echo", "syn"], [])


def test_a_network_without_a_route_is_an_error_and_a_part_without_one_a_note(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    with pytest.raises(RoomfulError, match=r"no route to 10.77.0.0/20; is this machine connected to it?"):
        scan(Simulated({}, routes=0), monkeypatch)
    done = scan(Simulated(some_hosts(), routes=4000), monkeypatch)
    assert done.notes == ["no route to 96 of the 4,096 addresses: they were not asked"]


def test_progress_only_grows_and_ends_at_all_addresses(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    network = Simulated(some_hosts())
    monkeypatch.setattr(nmap, "run", network.run)
    monkeypatch.setattr(nmap, "can_send_raw", lambda: True)
    seen: list[tuple[float, float, str]] = []
    Scan([NETWORK], ScanOptions(), lambda *report: seen.append(report)).run()
    done = [report[0] for report in seen]
    assert done == sorted(done)
    assert seen[-1] == (4096, 4096, "60 up")


@pytest.mark.parametrize(
    ("first", "second", "missed"),
    [
        pytest.param(0, 0, False, id="nothing-up"),
        pytest.param(60, 60, False, id="all-twice"),
        pytest.param(59, 60, False, id="one-more"),
        pytest.param(55, 60, False, id="expected-remainder-0.42"),
        pytest.param(54, 60, True, id="expected-remainder-0.6"),
        pytest.param(15, 28, True, id="half"),
        pytest.param(0, 1, True, id="only-the-second"),
        pytest.param(1, 0, True, id="only-the-first"),
        pytest.param(60, 40, True, id="the-second-is-the-worse-one"),
    ],
)
def test_maybe_missed(first: int, second: int, missed: bool) -> None:
    hosts = [f"h{number}" for number in range(60)]
    assert maybe_missed(set(hosts[:first]), set(hosts[:second])) is missed


def draws(chance: random.Random, limit: int) -> Iterator[str]:
    while True:
        yield f"10.77.{chance.randrange(16)}.{chance.randrange(limit)}"


def test_maybe_cut_short_knows_a_pass_that_ended_early_from_one_that_did_not() -> None:
    chance = random.Random(3)

    def share(count: int, limit: int) -> float:
        hosts = draws(chance, limit)
        return sum(maybe_cut_short([next(hosts) for _ in range(count)]) for _ in range(300)) / 300

    assert share(60, 256) < 0.25
    assert share(5, 256) < 0.25
    assert share(60, 128) == 1.0
    assert share(15, 64) == 1.0
    assert share(3, 64) > 0.8
    assert maybe_cut_short([])


def test_blocks_are_all_of_a_network_in_an_order_of_its_own() -> None:
    networks = [ipaddress.IPv4Network("10.0.0.0/22"), ipaddress.IPv4Network("10.9.0.8/30")]
    cut = blocks(networks)
    assert sorted(cut) == [
        *(ipaddress.IPv4Network(f"10.0.{third}.0/24") for third in range(4)),
        ipaddress.IPv4Network("10.9.0.8/30"),
    ]
    large = [ipaddress.IPv4Network("10.0.0.0/18")]
    assert blocks(large) != blocks(large)


def test_upper_half_first_is_a_partition() -> None:
    networks = [NETWORK, ipaddress.IPv4Network("10.0.0.200/32"), ipaddress.IPv4Network("10.0.0.5/32")]
    upper, lower = upper_half_first(networks)
    assert {str(address) for block in upper for address in block} == {
        str(address) for network in networks for address in network if int(address) & 128
    }
    assert sum(block.num_addresses for block in [*upper, *lower]) == 4098
