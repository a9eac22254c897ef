"""inv doctor, rank and hosts over a lab in which a dozen hosts are broken, each in its own way, all at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from roomful import lab as labs
from roomful.hosts import read_host_list
from roomful.lab import Lab, processes
from roomful.lab.model import STUDENT_ID
from roomful.lab.namespaces import HANG, NamespaceMachines
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, lab

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root]

#: What the probe itself needs besides a shell.
PROGRAMS = ["sh", "bash", "python3", "rsync", "head", "wc", "mkdir", "rm", "rmdir", "find", "stat", "df", "awk"]
PROGRAMS += ["timeout", "ls", "sleep"]


def home_of(room: Lab, host: str) -> Path:
    return room.host_directory(host) / "disk" / "home" / "student"


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the student's."""
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, STUDENT_ID, STUDENT_ID)


def give_own_path(room: Lab, host: str, without: str = "", **scripts: str) -> None:
    """Let a host find only these programs: all of PROGRAMS but one, and scripts under other names."""
    folder = home_of(room, host) / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        if name != without:
            (folder / name).symlink_to(shutil.which(name, path="/usr/bin:/bin") or f"/usr/bin/{name}")
    for name, text in scripts.items():
        (folder / name).unlink(missing_ok=True)
        write(folder / name, text, 0o755)
    write(home_of(room, host) / ".bashrc", f"PATH=/home/student/{folder.name}\n")


@pytest.fixture(scope="module")
def room(lab: LabFactory) -> Lab:
    """Eighteen hosts; lab01, lab17 and lab18 are well."""
    found = lab(own="doctor", count=18, rootless=False, disk=24 * 2**20, off=("lab02",), refuse_key=("lab03",))
    faults = {"lab04": "sshd", "lab05": "hang", "lab06": "host-key", "lab07": "hang-home", "lab08": "disk-full"}
    for host, how in faults.items():
        labs.fail(found.name, host, how)
    write(home_of(found, "lab09") / ".bashrc", "echo Welcome to \x1b[31mlab09\n")
    os.chown(home_of(found, "lab10"), 0, 0)
    os.mkfifo(home_of(found, "lab11") / ".bashrc")
    (home_of(found, "lab11") / ".bashrc").chmod(0o644)
    give_own_path(found, "lab12", without="python3")
    give_own_path(found, "lab13", without="rsync")
    give_own_path(found, "lab14", python3="#!/bin/sh\necho python 3.6.15\n")
    give_own_path(found, "lab15", quota="#!/bin/sh\necho 'none of ours'\necho ' /home 3000 4096 5000 12 0 0'\n")
    return labs.get(found.name)


@pytest.fixture(scope="module")
def project(room: Lab, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = project_for(room, tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("home"))
    with (made.root / "host_lists" / "lab.txt").open("a") as file:
        file.write(f"nowhere address=nosuch.invalid netns={room.netns}\n")
    return made


@pytest.fixture(scope="module")
def examined(project: Project) -> dict[str, Any]:
    """Examine all hosts once, and one that has no address, with a list of the usable ones."""
    start = time.monotonic()
    done = project.inv("doctor", "--hosts", "lab", "--output", "usable", "--json")
    seconds = time.monotonic() - start
    assert done.returncode == 1, done.stderr
    hosts = {item["host"]: item for item in json.loads(done.stdout)["hosts"]}
    return {"hosts": hosts, "seconds": seconds, "stderr": done.stderr}


@pytest.mark.parametrize(
    ("host", "status", "reason", "detail"),
    [
        pytest.param("nowhere", "unreachable", "dns", "nosuch.invalid", id="no name"),
        pytest.param("lab02", "unreachable", "timeout", "no answer within 2.5 s", id="off"),
        pytest.param("lab04", "unreachable", "refused", "nothing listens", id="refused"),
        pytest.param("lab05", "unreachable", "timeout", "the server never spoke", id="silent"),
        pytest.param("lab06", "unreachable", "host-key", "changed key", id="changed key"),
        pytest.param("lab03", "unreachable", "auth", "refuses our key", id="key refused"),
        pytest.param("lab07", "unreachable", "timeout", "a home that hangs", id="home hangs at login"),
        pytest.param("lab11", "failed", "shell-hangs", "hangs", id="a start file hangs"),
        pytest.param("lab08", "failed", "disk-full", "No space left", id="disk full"),
        pytest.param("lab10", "failed", "home", "Permission denied", id="home not writable"),
        pytest.param("lab09", "failed", "noisy-shell", "'Welcome to", id="noisy .bashrc"),
        pytest.param("lab12", "failed", "no-python", "no python3", id="no python3"),
        pytest.param("lab14", "failed", "no-python", "3.6.15", id="old python3"),
        pytest.param("lab13", "failed", "no-program", "no rsync", id="no rsync"),
    ],
)
def test_every_kind_of_broken_host_is_named(
    examined: dict[str, Any], host: str, status: str, reason: str, detail: str
) -> None:
    found = examined["hosts"][host]
    assert (found["status"], found["reason"]) == (status, reason), found
    assert detail in found["detail"]
    assert found["problems"][0]["reason"] == reason


def test_the_well_ones_tell_what_they_are(examined: dict[str, Any]) -> None:
    for host in ("lab01", "lab15", "lab16", "lab17", "lab18"):
        found = examined["hosts"][host]
        assert (found["status"], found["problems"]) == ("ok", []), found
        assert found["cpus"] >= 1
        assert found["memory_free_bytes"] > 2**20
        assert found["python"].startswith("3.")
        assert found["file_system"] == "tmpfs"
        assert abs(found["clock_offset_seconds"]) <= found["clock_uncertainty_seconds"] + 0.5
        assert found["shares_home_with"] == []
        assert [item["check"] for item in found["warnings"] if item["check"] == "disk"] == ["disk"]


def test_a_quota_counts_as_the_disk(examined: dict[str, Any]) -> None:
    assert examined["hosts"]["lab15"]["disk_free_bytes"] == 2000 * 1024
    assert examined["hosts"]["lab16"]["disk_free_bytes"] > 20 * 2**20


def test_no_host_is_waited_for_beyond_its_deadline(examined: dict[str, Any]) -> None:
    # The shell that hangs has 10 s; everything else costs less and goes on meanwhile.
    assert examined["seconds"] < 10 + 8
    for host in ("lab01", "lab08", "lab12"):
        assert examined["hosts"][host]["seconds"] < 6


def test_the_usable_ones_are_written_with_what_stood_in_their_lines(
    examined: dict[str, Any], project: Project
) -> None:
    listed = {line.text for line in read_host_list(project.root / "host_lists" / "lab.txt").lines}
    usable = read_host_list(project.root / "host_lists" / "usable.txt")
    assert [host.name for host in usable.hosts] == ["lab01", "lab15", "lab16", "lab17", "lab18"]
    assert {line.text for line in usable.lines} <= listed
    assert "5 usable hosts" in examined["stderr"]
    assert "inv doctor '--hosts=lab[02-14],nowhere'" in examined["stderr"]


def test_nothing_stays_on_the_hosts(examined: dict[str, Any], room: Lab) -> None:
    assert not (home_of(room, "lab01") / ".roomful-probe").exists()
    assert not (home_of(room, "lab08") / ".roomful-probe").exists()


def test_the_table_hides_no_escape_sequence_from_the_eye(project: Project) -> None:
    done = project.inv("doctor", "--hosts", "lab09,lab01")
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "noisy-shell" in done.stdout
    assert "1 ok, 1 failed, 0 unreachable" in done.stderr


def test_a_disk_that_hangs_costs_its_stage(room: Lab, tmp_path: Path) -> None:
    """The home answers, but the workdir lies on a file server that is down."""
    pid = NamespaceMachines(room).init_pid(room.host("lab16"))
    argv = [sys.executable, "-I", "-S", str(HANG), str(pid), "/var/tmp"]
    project = project_for(room, tmp_path, tmp_path, workdir="/var/tmp/work")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as hung:
        try:
            assert hung.stdout is not None
            assert hung.stdout.readline() == b"ready\n"
            hosts = {item["host"]: item for item in project.json("doctor", "--hosts", "lab16,lab17", code=1)["hosts"]}
        finally:
            hung.send_signal(signal.SIGTERM)
    assert (hosts["lab16"]["status"], hosts["lab16"]["reason"]) == ("failed", "home-hangs")
    assert hosts["lab16"]["cpus"] >= 1, "the later stages still ran"
    assert hosts["lab17"]["status"] == "ok"


def test_a_home_that_answers_again_is_well_and_nothing_of_the_fault_stays(lab: LabFactory, tmp_path: Path) -> None:
    room = lab(own="healed", count=1, rootless=False)
    project = project_for(room, tmp_path, tmp_path)
    labs.fail(room.name, "lab01", "hang-home")
    assert project.json("doctor", code=1)["hosts"][0]["reason"] == "timeout"
    labs.heal(room.name, "lab01")
    assert project.json("doctor")["hosts"][0]["problems"] == []
    assert processes.marked_running(room.directory, HANG.name) == set()


def test_the_inventory_knows_it_all_and_answers_at_once(examined: dict[str, Any], project: Project) -> None:
    seconds, bare = [], []
    for _ in range(5):
        start = time.monotonic()
        done = project.inv("hosts", "lab")
        seconds.append(time.monotonic() - start)
        start = time.monotonic()
        project.inv("--version")
        bare.append(time.monotonic() - start)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[2:]}
    assert "unreachable, auth" in rows["lab03"]
    assert "failed, no-python" in rows["lab12"]
    assert "ok" in rows["lab01"]
    known = {item["host"]: item for item in project.json("hosts", "lab")["hosts"]}
    assert known["lab01"]["doctor"]["cpus"] == examined["hosts"]["lab01"]["cpus"]
    assert 0 <= known["lab01"]["doctor"]["age_seconds"] < 600
    assert project.inv("filter", "--hosts", "lab01,lab03").returncode == 0
    later = {item["host"]: item for item in project.json("hosts", "lab")["hosts"]}
    assert (later["lab03"]["filter"]["reason"], later["lab03"]["doctor"]["reason"]) == ("auth", "auth")
    assert later["lab01"]["filter"]["age_seconds"] < later["lab01"]["doctor"]["age_seconds"]
    # 0.2 s on a machine at rest. Tests share theirs: three starts of Invoke alone are fine.
    assert min(seconds) < max(0.4, 3 * min(bare))


def test_what_cannot_be_remembered_does_not_hide_what_was_found(room: Lab, tmp_path: Path) -> None:
    project = project_for(room, tmp_path, tmp_path)
    (tmp_path / ".roomful").write_text("somebody's file")
    done = project.inv("doctor", "--hosts", "lab01")
    assert done.returncode == 0
    assert "lab01" in done.stdout
    assert "not remembered" in done.stderr


def test_rank_puts_the_slow_host_last_and_writes_weights(lab: LabFactory, tmp_path: Path) -> None:
    room = lab(own="rank", count=2, rootless=False)
    # Three others want the same CPU.
    crowd = "for i in 1 2 3; do taskset -c 0 sh -c 'while :; do :; done' >/dev/null 2>&1 & p=\"$p $!\"; done"
    python = f'#!/bin/sh\n{crowd}\ntaskset -c 0 /usr/bin/python3 "$@"; s=$?; kill $p; exit $s\n'
    home = home_of(room, "lab01")
    (home / "bin").mkdir()
    write(home / "bin" / "python3", python, 0o755)
    write(home / ".bashrc", "PATH=/home/student/bin:$PATH\n")
    project = project_for(room, tmp_path, tmp_path)
    document = project.json("rank", "--hosts", "lab", "--output", "fastest", "--top", "1")
    assert [item["host"] for item in document["hosts"]] == ["lab02", "lab01"]
    weights = [item["load_weight"] for item in document["hosts"]]
    assert weights[0] == 1.0
    assert weights[1] > 1.5
    (kept,) = read_host_list(tmp_path / "host_lists" / "fastest.txt").hosts
    assert (kept.name, kept.load_weight, kept.netns) == ("lab02", 1.0, room.netns)
    known = {item["host"]: item["rank"] for item in project.json("hosts", "lab")["hosts"]}
    assert known["lab01"]["cpu_share"] < 0.6
    assert known["lab01"]["round_seconds"] > known["lab02"]["round_seconds"]


def test_hosts_that_share_a_home_are_told(lab: LabFactory, tmp_path: Path) -> None:
    room = lab(own="shared", count=3, rootless=False, shared_home=True)
    # One comes when the others have long been done: their marks must still be there.
    write(room.directory / "shared" / "home" / "student" / ".bashrc", "[ $(hostname) != lab02 ] || sleep 2\n")
    project = project_for(room, tmp_path, tmp_path)
    hosts = {item["host"]: item["shares_home_with"] for item in project.json("doctor")["hosts"]}
    assert hosts == {"lab01": ["lab02", "lab03"], "lab02": ["lab01", "lab03"], "lab03": ["lab01", "lab02"]}
    assert not (room.directory / "shared" / "home" / "student" / ".roomful-probe").exists()
