"""Networks as they are written, names that are used or not, and which hosts are kept."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from roomful import discovery
from roomful.discovery import discover, entry_of, from_report, matching, parse_networks, usable
from roomful.errors import InputError
from roomful.hosts import format_host
from roomful.nmap import ScanOptions
from roomful.nmap_report import PortState, UpHost
from tests.unit.test_nmap_report import SEED


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        pytest.param("10.0.0.0/24", ["10.0.0.0/24"], id="network"),
        pytest.param("147.127.133.1/20", ["147.127.128.0/20"], id="host-bits-as-the-toolbox-writes-them"),
        pytest.param("10.0.0.7", ["10.0.0.7/32"], id="address"),
        pytest.param(
            "10.9.0.0/24, 10.0.0.0/25,10.0.0.128/25", ["10.0.0.0/24", "10.9.0.0/24"], id="neighbours-joined"
        ),
        pytest.param("10.0.0.0/24,10.0.0.7,10.0.0.0/30", ["10.0.0.0/24"], id="overlaps"),
        pytest.param("10.0.0.0/16", ["10.0.0.0/16"], id="largest"),
        pytest.param("10.0.0.0/255.255.255.0", ["10.0.0.0/24"], id="mask"),
    ],
)
def test_parse_networks(text: str, networks: list[str]) -> None:
    assert [str(network) for network in parse_networks(text)] == networks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--network: no network given; write one such as 10.0.0.0/24"),
        (" ", "--network: no network given"),
        ("10.0.0.0/24,", "bad network ''"),
        ("10.0.0.0/33", "bad network '10.0.0.0/33'"),
        ("10.0.0.1-50", "bad network '10.0.0.1-50'"),
        ("lab", "bad network 'lab'"),
        ("--script=x", "bad network '--script=x'"),
        ("10.0.0.0/24 -iL /etc/passwd", "bad network"),
        ("fd00::/64", "cannot scan fd00::/64: only IPv4"),
        ("10.0.0.0/15", "131,072 addresses, more than a /16; give --yes"),
        ("10.0.0.0/16,10.1.0.0", "65,537 addresses, more than a /16; give --yes"),
    ],
)
def test_bad_networks_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_networks(text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_large_network_is_taken_when_it_is_meant() -> None:
    assert parse_networks("10.0.0.0/8", large=True) == (ipaddress.IPv4Network("10.0.0.0/8"),)


HOSTS = [
    UpHost("10.0.0.1", "node1.enseeiht.fr"),
    UpHost("10.0.0.2", "node2.enseeiht.fr"),
    UpHost("10.0.0.3", "printer.enseeiht.fr.example"),
    UpHost("10.0.0.4"),
]


@pytest.mark.parametrize(
    ("match", "kept"),
    [
        ("", "1234"),
        (" , ", "1234"),
        (".enseeiht.fr", "12"),
        (".ENSEEIHT.fr", "12"),
        ("enseeiht", "123"),
        ("node2", "2"),
        ("node?.enseeiht.fr", "12"),
        ("*.example", "3"),
        ("node*", "12"),
        ("node", "12"),
        ("node[12]", ""),
        ("10.0.0.", "4"),
        ("printer, 10.0.0.4", "34"),
        ("(.*)", ""),
        ("nothing", ""),
    ],
)
def test_matching(match: str, kept: str) -> None:
    assert "".join(host.address[-1] for host in matching(HOSTS, match)) == kept


@pytest.mark.parametrize(
    ("host", "port", "line"),
    [
        (UpHost("10.0.0.1", "a.lab"), 22, "a.lab"),
        (UpHost("10.0.0.1"), 22, "10.0.0.1"),
        (UpHost("10.0.0.1"), 2222, "10.0.0.1:2222"),
        (UpHost("fd00::7"), 2222, "[fd00::7]:2222"),
    ],
)
def test_entry_of(host: UpHost, port: int, line: str) -> None:
    assert format_host(entry_of(host, port)) == line


def test_usable_hosts_answer_on_the_port_or_nobody_knows() -> None:
    words: tuple[PortState, ...] = ("open", "closed", "filtered", "unknown")
    hosts = [UpHost(f"10.0.0.{at}", port_state=state) for at, state in enumerate(words)]
    assert [host.port_state for host in usable(hosts)] == ["open", "unknown"]


class FakeScan:
    """A scan that has found three hosts."""

    def __init__(self, networks: object, options: object, on_progress: object) -> None:
        self.addresses = 256
        self.up = {address: UpHost(address, port_state="open") for address in ("10.0.0.30", "10.0.0.4", "10.0.0.5")}
        self.notes = ["a note"]

    def run(self) -> None:
        """Nothing to do."""


def names_by(table: dict[str, str]) -> Callable[..., dict[str, str]]:
    def look_up_all(look_up: object, keys: Iterable[str], timeout: float) -> dict[str, str]:
        return {key: table[key] for key in keys if key in table and timeout}

    return look_up_all


def test_a_scan_is_in_the_order_of_addresses_with_the_names_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "Scan", FakeScan)
    monkeypatch.setattr(discovery, "look_up_all", names_by({"10.0.0.4": "four.lab", "10.0.0.5": ""}))
    found = discover([], ScanOptions())
    assert [(host.address, host.name) for host in found.hosts] == [
        ("10.0.0.4", "four.lab"),
        ("10.0.0.5", ""),
        ("10.0.0.30", ""),
    ]
    assert found.addresses == 256
    assert found.notes == (
        "a note",
        "the name server left 1 of 3 addresses unanswered: they have no name here",
    )


def test_without_look_ups_there_are_addresses_and_no_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "Scan", FakeScan)
    found = discover([], ScanOptions(dns_timeout=0))
    assert [host.name for host in found.hosts] == ["", "", ""]
    assert found.notes == ("a note",)


def test_a_name_of_several_addresses_names_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "Scan", FakeScan)
    names = {"10.0.0.4": "pool.lab", "10.0.0.5": "pool.lab", "10.0.0.30": "own.lab"}
    monkeypatch.setattr(discovery, "look_up_all", names_by(names))
    found = discover([], ScanOptions())
    assert [host.name for host in found.hosts] == ["", "", "own.lab"]
    assert found.notes[-1] == "pool.lab is the name of 2 addresses: these are used"


def test_a_reports_names_stay_unless_they_lead_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report"
    path.write_text(SEED)
    asked: list[dict[str, str]] = []

    def contradicted(names: dict[str, str], timeout: float) -> frozenset[str]:
        asked.append(names)
        return frozenset({"147.127.128.4"})

    monkeypatch.setattr(discovery, "contradicted", contradicted)
    found = from_report(path, ScanOptions())
    assert [(host.address, host.name) for host in found.hosts] == [
        ("147.127.128.3", "cumulus.enseeiht.fr"),
        ("147.127.128.4", ""),
    ]
    assert asked == [{"147.127.128.3": "cumulus.enseeiht.fr", "147.127.128.4": "stratus.enseeiht.fr"}]
    assert found.notes == ("147.127.128.4: its name stratus.enseeiht.fr resolves elsewhere and is not used",)
    assert found.addresses == 0
