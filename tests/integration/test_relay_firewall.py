"""Firewalls between hosts that drop packets silently: a relay must find another way in the time that it states."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.lab import LabFactory, as_root, ssh
from tests.support.relaying import PAYLOAD_BYTES, Project
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

#: What comes in meets these rules before the table of the host's own addresses.
FIRST = "ip rule add pref 20 lookup local; ip rule del pref 0"
UNDO = "ip rule add pref 0 lookup local || true; for pref in 4 5 20; do ip rule del pref $pref || true; done"
#: SSH both ways is let through; what else comes to a port that a door can have is dropped.
DOORS = (
    "ip rule add pref 4 iif eth0 ipproto tcp sport 22 lookup local; "
    "ip rule add pref 5 iif eth0 ipproto tcp dport 1024-65534 blackhole; " + FIRST
)


def from_hosts(room: Lab) -> str:
    """Drop everything that comes from other hosts, not from the controller."""
    mine = f"ip rule add pref 4 iif eth0 from {room.controller_address} lookup local"
    return f"{mine}; ip rule add pref 5 iif eth0 blackhole; {FIRST}"


@pytest.fixture
def room(lab: LabFactory) -> Iterator[Lab]:
    found = lab(count=5, rootless=False, uplink=20_000_000, own="firewall")
    yield found
    for host in found.hosts:
        as_root(found, host.name, f"exec 2>/dev/null; {UNDO}")


@pytest.fixture
def project(room: Lab, tmp_path: Path, program: Callable[[str], str]) -> Project:
    program("rsync")
    return Project(room, tmp_path, f"~/relay{os.urandom(4).hex()}")


def test_silent_doors_are_passed_by_over_ssh(project: Project) -> None:
    project.keys("12345")
    for host in project.room.hosts:
        as_root(project.room, host.name, DOORS)
    start = time.monotonic()
    rows, said = project.deploy("--relay", "direct")
    # Two doors in a row are tried in vain, for 3 s each, and no more.
    assert time.monotonic() - start < 20
    assert [row.get("result") for row in rows] == ["deployed"] * 5, f"{rows} {said}"
    assert "passed on over SSH to 4 of 4\n" in said
    assert len(project.sums()) == 1


def test_a_host_that_answers_no_other_is_passed_over_and_served_from_here(project: Project) -> None:
    project.keys("")
    as_root(project.room, "lab03", from_hosts(project.room))
    start = time.monotonic()
    rows, said = project.deploy("--relay", "direct")
    # It is tried twice, each time for 3 s at its door and 5 s at its SSH server.
    assert time.monotonic() - start < 30
    assert [row.get("result") for row in rows] == ["deployed"] * 5, f"{rows} {said}"
    assert "passed on unencrypted over TCP to 3 of 4; not reached by other hosts" in said
    assert "the rest by rsync from here: lab03\n" in said
    assert [row["bytes_sent"] > PAYLOAD_BYTES for row in rows] == [False, False, True, False, False]
    assert len(project.sums()) == 1


def test_where_no_host_answers_another_all_is_served_from_here(project: Project) -> None:
    project.keys("12345")
    for host in project.room.hosts:
        as_root(project.room, host.name, from_hosts(project.room))
    start = time.monotonic()
    rows, said = project.deploy("--relay", "direct")
    # The first host tries two others, each for 8 s.
    assert time.monotonic() - start < 35
    assert [row.get("result") for row in rows] == ["deployed"] * 5, f"{rows} {said}"
    assert "to 0 of 4; not reached by other hosts, so the rest by rsync from here: lab02,lab03,lab04,lab05\n" in said
    assert len(project.sums()) == 1


def test_a_stream_from_which_packets_begin_to_vanish_is_given_up_and_healed(project: Project) -> None:
    project.keys("")
    # What is cut must not be all in the buffers of the network.
    (project.folder / "resources" / "data" / "big").write_bytes(os.urandom(10 * PAYLOAD_BYTES))
    seen: list[str] = []

    def shut() -> None:
        look = "cat roomful*/.roomful/deploy/top/staging/*/data/big relay*/.roomful/deploy/top/staging/*/data/big"
        wait_until(lambda: seen.append(ssh(project.room, "lab03", f"{look} | wc -c").stdout) or int(seen[-1]) > 0, 60)
        as_root(project.room, "lab03", from_hosts(project.room))

    thread = threading.Thread(target=shut)
    thread.start()
    start = time.monotonic()
    rows, said = project.deploy("--relay", "direct")
    thread.join()
    # The payload takes 12 s; the silent link is given up after 20 s, and lab03 is tried once more for 8 s.
    assert time.monotonic() - start < 75
    assert [row.get("result") for row in rows] == ["deployed"] * 5, f"{rows} {said}"
    assert "passed on unencrypted over TCP to 3 of 4; not reached" in said
    assert len(project.sums()) == 1
