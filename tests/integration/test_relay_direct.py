"""A payload that hosts pass on without SSH: what goes which way, and what cuts, firewalls and changed bytes cost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.deploy import Deployment, deploy
from roomful.hosts import resolve
from roomful.lab import Lab
from roomful.lookout import Lookout
from roomful.workdir.direct import CALLER_SECONDS
from tests.support.lab import LabFactory, settings_for, ssh
from tests.support.relaying import PAYLOAD_BYTES, Project
from tests.support.waiting import wait_until
from tests.support.workdirs import make_tree

#: Prints what listens on a host and what of the relay runs there, sshd apart.
LISTENERS = (
    "cat /proc/net/tcp | awk '$4 == \"0A\" {print $2}' | grep -v :0016; grep -lz compil[e] /proc/[0-9]*/cmdline"
)
#: Ends the process that has a file of a seed open.
CUT = (
    "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | grep -q 'staging/.*big'"
    " && kill -9 ${p#/proc/} && echo cut; done; true"
)


@pytest.fixture
def project(lab: LabFactory, tmp_path: Path, program: Callable[[str], str]) -> Project:
    program("rsync")
    return Project(lab(count=5, rootless=False, uplink=20_000_000), tmp_path, f"~/relay{os.urandom(4).hex()}")


@pytest.mark.root
def test_hosts_without_keys_to_each_other_pass_it_on_and_nothing_stays_open(project: Project) -> None:
    project.keys("")
    rows, said = project.deploy("--relay", "direct")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "sent once to lab01, passed on unencrypted over TCP to 4 of 4\n" in said
    assert sum(row["bytes_sent"] for row in rows) < 100_000
    assert len(project.sums()) == 1

    def left() -> list[str]:
        return [ssh(project.room, host.name, LISTENERS).stdout for host in project.room.hosts]

    wait_until(lambda: left() == [""] * 5, 10, left)


@pytest.mark.root
def test_a_cut_in_the_middle_is_healed_by_the_host_before(project: Project) -> None:
    project.keys("")
    cut: list[str] = []

    def kill() -> None:
        wait_until(lambda: cut.append(ssh(project.room, "lab03", CUT).stdout) or "cut" in cut[-1], 60)

    thread = threading.Thread(target=kill)
    thread.start()
    rows, said = project.deploy("--relay", "direct")
    thread.join()
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "passed on unencrypted over TCP to 4 of 4\n" in said
    assert sum(row["bytes_sent"] for row in rows) < PAYLOAD_BYTES
    assert len(project.sums()) == 1


def through(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> None:
    """Change where the last host is said to listen, as whoever sits on the way could."""
    real = Lookout.ask

    def ask(self: Lookout, indices: Any) -> Any:
        stops = real(self, indices)
        change(stops[-1].hop["door"])
        return stops

    monkeypatch.setattr(Lookout, "ask", ask)


def deployed(room: Lab, folder: Path) -> tuple[str, list[int]]:
    """Deploy to three hosts, see that each has it; returns what was said, and the bytes that rsync sent to each."""
    workdir = f"~/direct{os.urandom(4).hex()}"
    settings = settings_for(room, folder / "project", workdir=workdir)
    source = make_tree(folder / "source", {"run.py": "one"})
    (source / "big").write_bytes(os.urandom(PAYLOAD_BYTES))
    notes: list[str] = []
    outcomes = deploy(resolve("lab", settings), settings, Deployment(source, relay="direct"), on_note=notes.append)
    assert outcomes.not_ok == ()
    homes = [room.host_directory(host.name) / "home" / workdir.removeprefix("~/") for host in room.hosts]
    same = [(home / "big").read_bytes() == (source / "big").read_bytes() for home in homes]
    assert same == [True] * 3
    return notes[0], [outcome.value.bytes_sent if outcome.value else -1 for outcome in outcomes]


def test_a_byte_that_was_changed_on_the_way_never_becomes_current(
    rootless_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[[str], str]
) -> None:
    program("rsync")
    passed: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as middle:

        def flip(target: tuple[str, int]) -> None:
            sender, _ = middle.accept()
            with sender, socket.create_connection(target) as listener:

                def back() -> None:
                    while data := listener.recv(1 << 16):
                        sender.sendall(data)

                thread = threading.Thread(target=back)
                thread.start()
                count = 0
                while data := bytearray(sender.recv(1 << 16)):
                    if count < PAYLOAD_BYTES // 2 <= count + len(data):
                        data[-1] ^= 1
                    count += len(data)
                    listener.sendall(data)
                passed.append(count)
                listener.shutdown(socket.SHUT_WR)
                thread.join()

        def change(door: dict[str, Any]) -> None:
            threading.Thread(target=flip, args=((door["address"], door["port"]),), daemon=True).start()
            door["address"], door["port"] = middle.getsockname()

        through(monkeypatch, change)
        note, sent = deployed(rootless_lab, tmp_path)
    assert "passed on unencrypted over TCP to 2 of 2" in note
    assert passed[0] > PAYLOAD_BYTES
    # rsync mended the one file from here, block by block.
    assert sent[2] > max(sent[:2])
    assert sent[2] < PAYLOAD_BYTES / 2


@pytest.mark.root
@pytest.mark.parametrize(("keys", "way"), [("12345", "over SSH to 4 of 4"), ("", "the rest by rsync from here")])
def test_where_ports_are_closed_it_goes_over_ssh_or_from_here(project: Project, keys: str, way: str) -> None:
    project.keys(keys)
    # As a firewall that rejects: what a host says of its port leads to one where nobody listens.
    with (project.folder / "tasks.py").open("a") as tasks:
        tasks.write(
            "from roomful.lookout import Lookout\n"
            "ask = Lookout.ask\n"
            "def closed(*arguments):\n"
            "    stops = ask(*arguments)\n"
            "    for stop in stops:\n"
            "        stop.hop['door']['port'] = 9\n"
            "    return stops\n"
            "Lookout.ask = closed\n"
        )
    rows, said = project.deploy("--relay", "direct")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert way in said
    assert "unencrypted" not in said
    assert len(project.sums()) == 1


@pytest.mark.root
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_doors_to_which_nobody_comes_close_with_the_controller(project: Project, how: signal.Signals) -> None:
    with (project.folder / "tasks.py").open("a") as tasks:
        tasks.write("import time\nfrom roomful import relay\nrelay._send = lambda *_: time.sleep(60)\n")
    deploying = project.start("--relay", "direct")
    try:

        def listening() -> list[bool]:
            return [bool(ssh(project.room, host.name, LISTENERS).stdout) for host in project.room.hosts]

        wait_until(lambda: listening() == [True] * 5, 20, listening)
        # As long as it is there, they stay open.
        time.sleep(CALLER_SECONDS + 2)
        assert listening() == [True] * 5
        deploying.send_signal(how)
        wait_until(lambda: listening() == [False] * 5, CALLER_SECONDS + 5, listening)
    finally:
        deploying.kill()
        deploying.communicate()
