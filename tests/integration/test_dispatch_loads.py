"""Where the dispatcher's loads come from, and what it does with hosts that fall silent."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.settings import Settings
from tests.support import bad_servers
from tests.support.dispatcher import Room, install
from tests.support.inv import project_for
from tests.support.lab import LabFactory, lab, rootless_lab
from tests.support.server import clean_up
from tests.support.terminal import read_all
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def room(rootless_lab: Lab, tmp_path: Path) -> Iterator[Room]:
    """A dispatcher over three hosts, in a project whose cluster the test may start."""
    folders = {name: str(tmp_path / name) for name in ("server_directory", "workdir")}
    known = {"ssh_config": str(rootless_lab.ssh_config), "known_hosts": str(rootless_lab.known_hosts)}
    project = project_for(rootless_lab, tmp_path / "project", tmp_path / "home", **known, **folders)
    room = Room(project, project.root, install(tmp_path / "python"))
    assert room.project.inv("start-dispatcher", "--hosts", "lab").returncode == 0
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)
    yield room
    room.close()
    project.inv("stop-clients")
    clean_up(Settings(root=project.root, server_directory=folders["server_directory"]))


def test_load_waits_at_first_for_hosts_that_answer_soon(rootless_lab: Lab, tmp_path: Path) -> None:
    known = {"ssh_config": str(rootless_lab.ssh_config), "known_hosts": str(rootless_lab.known_hosts)}
    project = project_for(rootless_lab, tmp_path / "project", tmp_path / "home", connect_timeout_seconds=30, **known)
    with bad_servers.serve(bad_servers.silent) as silent:
        begin = time.monotonic()
        done = project.inv("load", "--hosts", f"lab,{silent}")
        seconds = time.monotonic() - begin
        project.inv("stop-dispatcher")
    lines = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [line[-1] for line in lines[:3]] == ["ok"] * 3, done.stdout
    assert lines[3][0] == silent
    assert " ".join(lines[3]).endswith("not connected yet")
    assert done.stderr == f"not waited for: {silent}; see what became of them with: inv load\n"
    assert seconds < 10


def sources(room: Room) -> dict[str, str]:
    return {row["host"]: row["source"] for row in room.loads()}


def test_agents_heartbeats_take_the_place_of_polls_where_a_cluster_runs(room: Room) -> None:
    assert set(sources(room).values()) == {"launcher"}
    done = room.project.inv("start-server", "start-clients", "--hosts", "lab")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: set(sources(room).values()) == {"agent"}, 15, room.loads)
    # Nobody is asked any more: what a launcher said would be newer, and show here.
    seen, end = set[str](), time.monotonic() + 5
    while time.monotonic() < end:
        seen |= set(sources(room).values())
        time.sleep(0.05)
    assert seen == {"agent"}
    # What the queue runs on a host counts at once, long before its average of a minute shows it.
    assert room.project.inv("submit", "-", stdin="sleep 30\nsleep 31\nsleep 32\n").returncode == 0
    wait_until(lambda: sum(row["load"] >= 1 for row in room.loads()) == 3, 10, room.loads)
    assert room.project.inv("cancel", "--all").returncode == 0
    # An agent that is stopped leaves no gap.
    assert room.project.inv("stop-clients", "--hosts", "lab01").returncode == 0
    deadline = time.monotonic() + 10
    while sources(room)["lab01"] != "launcher":
        assert time.monotonic() < deadline, room.loads()
        assert not any(row["unusable"] for row in room.loads()), room.loads()
        time.sleep(0.05)
    assert {sources(room)[name] for name in ("lab02", "lab03")} == {"agent"}


def test_watch_shows_the_loads_in_place_until_ctrl_c(room: Room) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.project.root)
        argv = [sys.executable, "-m", "invoke", "load", "--watch"]
        os.execve(sys.executable, argv, {**room.project.environment, "TERM": "xterm"})
    try:
        home = b"\033[H"
        screen = read_all(terminal, until=lambda screen: screen.count(home) >= 3)
        os.write(terminal, b"\x03")
        screen += read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, screen
    finally:
        os.close(terminal)
    tables = screen.split(home)[1:]
    assert all(all(name in table for name in (b"lab01", b"lab02", b"lab03")) for table in tables[:2]), screen
    assert b"Traceback" not in screen


def test_best_host_names_another_one_each_time(room: Room) -> None:
    names = [room.project.inv("best-host").stdout.strip() for _ in range(2)]
    assert set(names) < {"lab01", "lab02", "lab03"}
    assert names[0] != names[1]
    # What runs on a host is its load, whatever an average of a minute says.
    for name in ("lab01", "lab02", "lab03"):
        room.dsh("-n", "--on", name, "sleep", "60")
    wait_until(lambda: all(row["ours"] for row in room.loads()), 10, room.loads)
    for limit in ("0", "0.001"):
        busy = room.project.inv("best-host", "--max-load", limit)
        assert (busy.returncode, busy.stdout) == (1, "")
        assert f"a CPU is above {limit}" in busy.stderr
    assert room.project.inv("best-host", "--max-load", "1e9").stdout.startswith("lab0")
    refused = room.project.inv("dispatch", "--max-load", "0", "--", "true")
    assert (refused.returncode, "a CPU is above 0" in refused.stderr) == (125, True)


def of_network(hosts: Lab, folder: Path) -> Room:
    """A dispatcher over hosts with disks of their own: / is the one folder that surely is on all of them."""
    project = project_for(hosts, folder / "project", folder / "home")
    room = Room(project, Path("/"), install(folder / "python"))
    project.environment["ROOMFUL_PROJECT"] = str(project.root)  # type: ignore[index]
    assert project.inv("start-dispatcher", "--hosts", "lab").returncode == 0
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)
    return room


def fill(stdin: IO[bytes]) -> None:
    """Write until nobody reads any more."""
    with contextlib.suppress(OSError, ValueError):
        while True:
            stdin.write(bytes(1 << 16))


@pytest.mark.root
def test_hosts_that_are_silent_for_three_periods_are_not_chosen(lab: LabFactory, tmp_path: Path) -> None:
    hosts = lab(own="frozen while dispatching", count=3, rootless=False)
    room = of_network(hosts, tmp_path)
    try:
        labs.fail(hosts.name, "lab02", "freeze")
        begin = time.monotonic()
        wait_until(lambda: any(row["host"] == "lab02" and row["unusable"] for row in room.loads()), 7, room.loads)
        # Silence told, not yet a broken connection, which takes 12 s to be sure of.
        assert time.monotonic() - begin < 7
        assert [row["unusable"] for row in room.loads() if row["host"] == "lab02"] == ["no fresh report of its load"]
        done = room.sh("for i in 1 2 3 4 5 6; do dsh -v true; done", timeout=5)
        assert done.returncode == 0
        assert b"lab02" not in done.stderr
        refused = room.sh("dsh --on lab02 true", timeout=5)
        assert refused.returncode == 125
        assert b"lab02: no report of its load for" in refused.stderr
        labs.heal(hosts.name, "lab02")
        wait_until(lambda: not any(row["unusable"] for row in room.loads()), 30, room.loads)
    finally:
        room.close()


@pytest.mark.root
def test_a_host_that_is_sent_a_lot_over_a_slow_link_reports_and_is_chosen(lab: LabFactory, tmp_path: Path) -> None:
    """Its connection has no moment's rest: what it is asked must not wait for one."""
    hosts = lab(count=1, rootless=False, uplink=4_000_000)
    room = of_network(hosts, tmp_path)
    try:
        busy = [room.dsh("sh", "-c", "cat > /dev/null") for _ in range(3)]
        for process in busy:
            assert process.stdin is not None
            threading.Thread(target=fill, args=(process.stdin,), daemon=True).start()
        time.sleep(4)
        ages = []
        for _ in range(20):
            ages.append(room.loads()[0]["age"])
            time.sleep(0.3)
        assert max(ages) < 4, ages
        assert room.sh("dsh echo chosen").stdout == b"chosen\n"
        assert [process.poll() for process in busy] == [None] * 3
    finally:
        room.close()
