"""Dispatching where hosts fail, differ, and are loaded by others; in a lab with namespaces."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.hosts import read_host_list
from roomful.lab import Lab
from tests.support.dispatcher import Room, install, pretend_load
from tests.support.inv import project_for
from tests.support.lab import LabFactory, lab
from tests.support.sleepers import alive, new_mark
from tests.support.waiting import wait_until

__all__ = ["lab"]

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def hosts(lab: LabFactory) -> Lab:
    return lab(own="faults of dispatching", count=3, rootless=False)


@pytest.fixture
def room(hosts: Lab, tmp_path: Path) -> Iterator[Room]:
    """A fresh dispatcher over three hosts, all of them well; / is the one folder that surely is on all of them."""
    project = project_for(hosts, tmp_path / "project", tmp_path / "home")
    room = Room(project, Path("/"), install(tmp_path / "python"))
    # dsh works in / here, so it is told which project is meant.
    project.environment["ROOMFUL_PROJECT"] = str(project.root)  # type: ignore[index]
    start(room)
    yield room
    room.close()
    for host in labs.get(hosts.name).hosts:
        if host.faults:
            labs.heal(hosts.name, host.name)


def start(room: Room, *words: str, count: int = 3) -> None:
    done = room.project.inv("start-dispatcher", "--hosts", "lab", *words)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: sum(row["load"] is not None for row in room.loads()) == count, 15, room.loads)


def weigh(room: Room, weights: dict[str, str]) -> None:
    """Give hosts of the list weights."""
    path = room.project.root / "host_lists" / "lab.txt"
    lines = [line.text for line in read_host_list(path).lines]
    for name, words in weights.items():
        lines = [
            line.replace(f"{name} ", f"{name} {words} ", 1) if line.split()[0] == name else line for line in lines
        ]
    path.write_text("\n".join(lines) + "\n")
    assert room.project.inv("stop-dispatcher").returncode == 0


def test_a_power_cut_of_the_chosen_host_is_told_and_the_others_go_on(room: Room, hosts: Lab) -> None:
    mark = new_mark()
    victim = room.dsh("-v", "sleep", mark)
    assert victim.stderr is not None
    chosen = victim.stderr.readline().split()[-1].decode()
    wait_until(lambda: alive(mark, "sleep"), 10)
    labs.fail(hosts.name, chosen, "poweroff")
    begin = time.monotonic()
    _, err = victim.communicate(timeout=30)
    assert time.monotonic() - begin < 16
    assert victim.returncode == 125
    assert f"{chosen} was lost while sleep ran".encode() in err
    assert b"--retry" in err
    # It is not chosen again while it is away.
    for _ in range(6):
        done = room.sh("dsh -v true")
        assert (done.returncode, chosen.encode() in done.stderr) == (0, False), done.stderr
    assert next(row for row in room.loads() if row["host"] == chosen)["unusable"]
    labs.heal(hosts.name, chosen)
    wait_until(lambda: all(not row["unusable"] for row in room.loads()), 40, room.loads)


def test_with_retry_the_command_runs_again_elsewhere_with_its_input(room: Room, hosts: Lab) -> None:
    process = room.dsh("-v", "--retry", "1", "sh", "-c", "cat; echo ran; read x < /dev/null; sleep 8; echo done")
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"input\n")
    process.stdin.close()
    process.stdin = None
    first = process.stderr.readline().split()[-1].decode()
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == [b"input\n", b"ran\n"]
    labs.fail(hosts.name, first, "poweroff")
    out, err = process.communicate(timeout=60)
    second = err.splitlines()[-1].split()[-1].decode()
    assert process.returncode == 0, err
    assert out == b"input\nran\ndone\n"
    assert second != first


def test_what_was_interrupted_is_not_run_again_when_its_host_is_lost(room: Room, hosts: Lab) -> None:
    """Ctrl-C at a host that does not answer: it is lost some seconds later."""
    mark = new_mark()
    process = room.dsh("-v", "--retry", "2", "sleep", mark)
    assert process.stderr is not None
    chosen = process.stderr.readline().split()[-1].decode()
    wait_until(lambda: alive(mark, "sleep"), 10)
    labs.fail(hosts.name, chosen, "poweroff")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"trying again" in err) == (130, False), err
    assert f"{chosen} was lost while sleep ran".encode() in err


def test_a_cut_client_host_ends_nothing_twice(room: Room, hosts: Lab) -> None:
    """A host that is cut off ends what it runs by itself, within seconds."""
    mark = new_mark()
    process = room.dsh("-v", "sleep", mark)
    assert process.stderr is not None
    chosen = process.stderr.readline().split()[-1].decode()
    wait_until(lambda: alive(mark, "sleep"), 10)
    labs.fail(hosts.name, chosen, "cut")
    wait_until(lambda: not alive(mark, "sleep"), 10)
    assert process.wait(30) == 125


def test_no_host_at_all(room: Room, hosts: Lab) -> None:
    for host in hosts.hosts:
        labs.fail(hosts.name, host.name, "poweroff")
    wait_until(lambda: all(row["unusable"] for row in room.loads()), 30, room.loads)
    done = room.sh("dsh true")
    assert done.returncode == 125
    assert b"no host for true: " in done.stderr
    assert room.sh("dsh --or-local echo here").stdout == b"here\n"


def test_hosts_weighted_1_and_2_share_2_to_1(room: Room, hosts: Lab) -> None:
    weigh(room, {"lab01": "1.0", "lab02": "2.0"})
    done = room.project.inv("start-dispatcher", "--hosts", "lab01,lab02")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: sum(row["load"] is not None for row in room.loads()) == 2, 15, room.loads)
    # The lab's hosts share one kernel and so one load average, which is not small while tests run.
    loads = {"lab01": 0.0, "lab02": 0.0}
    fake_loads(room, loads)
    try:
        done = room.sh("for i in $(seq 90); do dsh -v sleep 4 2>&1 & done; wait")
        counts = Counter(line.split()[-1].decode() for line in done.stdout.splitlines())
        assert sum(counts.values()) == 90
        assert 1.8 <= counts["lab01"] / counts["lab02"] <= 2.2, counts
    finally:
        restart(hosts, loads)


def test_the_loads_of_others_are_respected(room: Room, hosts: Lab) -> None:
    loads = {"lab01": 9.0, "lab02": 0.1, "lab03": 9.0}
    fake_loads(room, loads)
    try:
        assert room.loads()[0]["host"] == "lab02"
        names = Counter(room.sh("dsh -v true").stderr.split()[-1].decode() for _ in range(5))
        assert names == {"lab02": 5}
        # The one that is asked for is taken however busy it is; others only within the limit.
        assert room.sh("dsh --max-load 0.01 --on lab01 true").returncode == 0
        refused = room.sh("dsh --max-load 0.01 true")
        assert refused.returncode == 125
        assert b"a CPU is above 0.01" in refused.stderr
    finally:
        restart(hosts, loads)


def fake_loads(room: Room, loads: dict[str, float]) -> None:
    """Let hosts report loads of their own; switching them off and on undoes it, as the fixture does."""
    for name, load in loads.items():
        pretend_load([str(room.programs / "dsh")], room.environment, name, load)
    wait_until(
        lambda: all(row["load"] == loads[row["host"]] for row in room.loads() if row["host"] in loads), 10, room.loads
    )


def restart(hosts: Lab, names: Iterable[str]) -> None:
    for name in names:
        labs.fail(hosts.name, name, "poweroff")
        labs.heal(hosts.name, name)
