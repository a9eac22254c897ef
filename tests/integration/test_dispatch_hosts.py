"""How small hosts and evaluations of one's own count; and a terminal that goes away."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.dispatcher import Room, install
from tests.support.inv import CHECKOUT, Project, project_for
from tests.support.lab import LabFactory, lab, ssh
from tests.support.sleepers import new_mark, wait_for_tree, wait_until_gone
from tests.support.waiting import wait_until

__all__ = ["lab"]

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def hosts(lab: LabFactory) -> Lab:
    return lab(count=3, rootless=False, cpus=0.25)


@pytest.fixture
def room(hosts: Lab, tmp_path: Path) -> Iterator[Room]:
    """A dispatcher over three hosts with a quarter of a CPU each, whose cluster the test may start."""
    project = project_for(hosts, tmp_path / "project", tmp_path / "home")
    room = Room(project, Path("/"), install(tmp_path / "python"))
    project.environment["ROOMFUL_PROJECT"] = str(project.root)  # type: ignore[index]
    start(room)
    yield room
    room.close()


def start(room: Room, *words: str) -> None:
    done = room.project.inv("start-dispatcher", "--hosts", "lab", *words)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)


def test_a_quarter_of_a_cpu_counts_as_one(room: Room) -> None:
    assert {row["cpus"] for row in room.loads()} == {0.25}


def test_an_evaluation_of_ones_own_changes_who_is_chosen(room: Room) -> None:
    def chosen() -> Counter[str]:
        return Counter(room.sh("dsh -v true").stderr.split()[-1].decode() for _ in range(6))

    assert len(chosen()) > 1
    (room.project.root / "rules.py").write_text(
        "def last(host):\n    return -int(host.host.name[-1])\n\n"
        "def second(host):\n    return host.host.name != 'lab02'\n"
    )
    for function, name in (("last", "lab03"), ("second", "lab02")):
        start(room, "--score", f"rules:{function}")
        assert chosen() == {name: 6}
        assert room.project.inv("best-host").stdout == f"{name}\n"
        assert room.project.json("load")[0]["host"] == name


def test_heartbeats_are_used_where_the_server_is_on_a_host(room: Room, hosts: Lab) -> None:
    key = shlex.quote(hosts.identity_file.read_text())
    put = f"umask 077; mkdir -p ~/.ssh && echo {key} > ~/.ssh/id_ed25519"
    assert ssh(hosts, "lab01", put).returncode == 0
    clients = ("--hosts", "lab02,lab03")
    try:
        done = room.project.inv("start-server", "--on", "lab01", "start-clients", *clients)
        assert done.returncode == 0, done.stderr
        expected = {"lab01": "launcher", "lab02": "agent", "lab03": "agent"}
        # The dispatcher, which ran before, looks for a server's machine every 30 s once it could not be reached.
        wait_until(lambda: {row["host"]: row["source"] for row in room.loads()} == expected, 45, room.loads)
        assert {row["cpus"] for row in room.loads()} == {0.25}
        assert room.sh("dsh --on lab02 echo fine").stdout == b"fine\n"
    finally:
        room.project.inv("stop-clients", *clients)
        stopped = room.project.inv("stop-server", "--forget", "--yes")
        ssh(hosts, "lab01", "rm ~/.ssh/id_ed25519")
    assert stopped.returncode == 0, stopped.stderr


def test_a_terminal_that_is_closed_ends_the_command_there(room: Room) -> None:
    mark = new_mark()
    pid, terminal = pty.fork()
    if pid == 0:
        # A folder that the hosts have as well.
        os.chdir("/")
        argv = ["dsh", "sh", "-c", f"sleep {mark} & sleep {mark}"]
        os.execve(room.programs / "dsh", argv, dict(room.environment))
    wait_for_tree(mark)
    os.close(terminal)
    wait_until_gone(mark, 5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (129, -1)


def test_a_dispatcher_of_another_version_is_named_and_can_be_stopped(room: Room, tmp_path: Path) -> None:
    """After an upgrade the old one still runs, and understands nothing that is asked of it."""
    assert room.project.inv("stop-dispatcher").returncode == 0
    shutil.copytree(CHECKOUT / "roomful", tmp_path / "old" / "roomful", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "fabfile", tmp_path / "old" / "fabfile", ignore=shutil.ignore_patterns("__pycache__"))
    client = tmp_path / "old" / "roomful" / "dsh.py"
    client.write_text(client.read_text().replace('\nVERSION = b"1"\n', '\nVERSION = b"0"\n'))
    old = Project(room.project.root, {**room.project.environment, "PYTHONPATH": str(tmp_path / "old")})
    assert old.inv("start-dispatcher").returncode == 0
    refused = room.sh("dsh true")
    assert refused.returncode == 125
    assert b"of different versions; run: inv stop-dispatcher" in refused.stderr
    stopped = room.project.inv("stop-dispatcher")
    assert (stopped.returncode, stopped.stderr) == (0, "1 ended\n")
    assert room.sh("dsh echo new").stdout == b"new\n"


def test_hosts_that_cannot_be_used_are_named_at_the_start(room: Room) -> None:
    (room.project.root / "host_lists" / "no.txt").write_text("no-such-host.test\n")
    done = room.project.inv("start-dispatcher", "--hosts", "no")
    assert done.returncode == 1
    assert "no-such-host.test: dns: " in done.stderr
    assert "no host can be used yet" in done.stderr
    assert room.sh("dsh true").returncode == 125
    shown = room.project.inv("load")
    assert shown.stdout.splitlines()[2].split()[-1] == "dns"


def test_where_nothing_can_be_written_it_says_so(room: Room, tmp_path: Path) -> None:
    program = f"""cd {room.project.root} && {sys.executable} -m invoke stop-dispatcher && mount --bind . . && cd $PWD
mount -o remount,ro,bind . && (cd / && exec {room.programs}/dsh echo restarted); echo $?
{sys.executable} -m invoke stop-dispatcher
mount -t tmpfs -o ro,mode=700 none {room.socket.parent} && {sys.executable} -m invoke start-dispatcher; echo $?"""
    argv = ["unshare", "-m", "sh", "-c", program]
    done = subprocess.run(
        argv, env={**room.environment, "PWD": "/"}, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "restarted\n0\n1\n", done
    assert "dispatcher.json" not in done.stderr
    assert "cannot start a dispatcher" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_named_project_without_a_dispatcher_is_not_replaced_by_another(room: Room, tmp_path: Path) -> None:
    done = room.sh(f"ROOMFUL_PROJECT={tmp_path} dsh true")
    assert done.returncode == 125
    assert f"ROOMFUL_PROJECT={tmp_path} has no dispatcher".encode() in done.stderr
