"""Names from reverse DNS: which are believed, and that no resolver can hold us up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from roomful.names import addresses_of, checked_name, confirmed_name, contradicted, look_up_all


class Resolver:
    """Stands in for the system's: what each address is called and where each name leads."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.addresses: dict[str, list[str]] = {}

    def gethostbyaddr(self, address: str) -> tuple[str, list[str], list[str]]:
        if address not in self.names:
            raise socket.herror(1, "Unknown host")
        return self.names[address], [], [address]

    def getaddrinfo(self, name: str, port: None, **_: object) -> list[tuple[object, ...]]:
        if name not in self.addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(2, 1, 6, "", (address, 0)) for address in self.addresses[name]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(socket, "gethostbyaddr", resolver.gethostbyaddr)
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    return resolver


@pytest.fixture
def black_hole() -> Iterator[threading.Event]:
    """A look-up that waits for this hangs until the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Kenobi.Enseeiht.FR.", "kenobi.enseeiht.fr"),
        ("node-1_a.lab", "node-1_a.lab"),
        ("x", "x"),
        ("1.lab.4u", "1.lab.4u"),
        ("", ""),
        (".", ""),
        ("a..b", ""),
        ("-a.lab", ""),
        ("10.0.0.7", ""),
        ("127.1", ""),
        ("0x7f.0x1", ""),
        ("0X7F000001", ""),
        ("2130706433", ""),
        ("fe80::1", ""),
        ("a b", ""),
        ("a;b", ""),
        ("a/b", ""),
        ("a@b", ""),
        ("ä.lab", ""),
    ],
)
def test_checked_name(text: str, name: str) -> None:
    assert checked_name(text) == name


def test_a_name_is_believed_only_if_it_leads_back(resolver: Resolver) -> None:
    resolver.names = {
        "10.0.0.1": "One.Lab.",
        "10.0.0.2": "elsewhere.lab",
        "10.0.0.3": "nowhere.lab",
        "10.0.0.4": "$(reboot)",
        "10.0.0.5": "localhost",
    }
    resolver.addresses = {
        "one.lab": ["10.0.9.1", "10.0.0.1"],
        "elsewhere.lab": ["10.0.0.1"],
        "$(reboot)": ["10.0.0.4"],
        "localhost": ["127.0.0.1"],
    }
    names = {address: confirmed_name(address) for address in (*resolver.names, "10.0.0.6")}
    assert names == dict.fromkeys(names, "") | {"10.0.0.1": "one.lab"}


def test_a_reports_name_is_contradicted_only_if_it_leads_elsewhere(resolver: Resolver) -> None:
    resolver.addresses = {"one.lab": ["10.0.0.1"], "stolen.lab": ["10.0.0.1"]}
    names = {"10.0.0.1": "one.lab", "10.0.0.2": "stolen.lab", "10.0.0.3": "nowhere.lab"}
    assert contradicted(names, timeout=5) == {"10.0.0.2"}
    assert contradicted(names, timeout=0) == frozenset()
    assert addresses_of(["one.lab", "one.lab", "nowhere.lab"], timeout=5) == {
        "one.lab": frozenset({"10.0.0.1"}),
        "nowhere.lab": frozenset(),
    }


def test_all_are_looked_up_at_once() -> None:
    together = threading.Barrier(60)
    assert look_up_all(lambda key: together.wait(timeout=10) >= 0, range(60), timeout=10) == dict.fromkeys(
        range(60), True
    )


def test_more_than_there_are_threads() -> None:
    assert look_up_all(lambda key: key * 2, range(1000), timeout=10) == {key: key * 2 for key in range(1000)}


def test_a_black_hole_costs_the_deadline_once_and_the_answers_stay(black_hole: threading.Event) -> None:
    def look_up(key: int) -> int:
        if key % 2:
            black_hole.wait()
        return key

    start = time.monotonic()
    found = look_up_all(look_up, range(60), timeout=0.3)
    assert found == {key: key for key in range(0, 60, 2)}
    assert time.monotonic() - start < 1.5


def test_no_thread_of_a_black_hole_keeps_the_process_alive(black_hole: threading.Event) -> None:
    look_up_all(lambda key: black_hole.wait(), range(3), timeout=0.05)
    waiting = [thread for thread in threading.enumerate() if thread.name == "resolver"]
    assert len(waiting) >= 3
    assert all(thread.daemon for thread in waiting)


def test_a_resolver_that_drips_ends_with_the_time_for_all() -> None:
    """Each answer comes within the deadline for one, so only the deadline for all 256 can end it."""
    begin = time.monotonic()
    lock = threading.Lock()

    def look_up(key: int) -> int:
        with lock:
            time.sleep(0.05)
        return key

    found = look_up_all(look_up, range(200), timeout=0.5)
    assert 2 <= len(found) < 50
    assert time.monotonic() - begin < 3


def test_nothing_is_looked_up_without_time() -> None:
    def look_up(key: int) -> int:
        raise AssertionError("looked up")

    assert look_up_all(look_up, [1], timeout=0) == {}
    assert look_up_all(look_up, [], timeout=5) == {}
