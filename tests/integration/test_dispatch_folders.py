"""make over hosts that share no folder with us: ``--sync`` brings sources there and objects back, whatever fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.support.dispatcher import Room, install
from tests.support.inv import project_for
from tests.support.lab import LabFactory, lab
from tests.support.waiting import wait_until

__all__ = ["lab"]

pytestmark = pytest.mark.root
FILES = 12


@pytest.fixture(scope="module")
def hosts(lab: LabFactory) -> Lab:
    return lab(own="make while hosts fail", count=3, rootless=False)


@pytest.fixture
def room(hosts: Lab, tmp_path: Path) -> Iterator[Room]:
    """A dispatcher, and the sources of a program whose every file takes a second to compile."""
    project = project_for(hosts, tmp_path / "project", tmp_path / "home")
    work = project.root / "src"
    work.mkdir()
    room = Room(project, work, install(tmp_path / "python"))
    assert project.inv("start-dispatcher", "--hosts", "lab").returncode == 0
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)
    for number in range(FILES):
        (work / f"f{number}.c").write_text(
            f'#include "common.h"\nint f{number}(void) {{ return {number} + BASE; }}\n'
        )
    (work / "common.h").write_text("#define BASE 100\n")
    (work / "slow-gcc").write_text('#!/bin/sh\necho $$ >> /tmp/compiles\nsleep 1\nexec gcc "$@"\n')
    (work / "slow-gcc").chmod(0o755)
    objects = " ".join(f"f{number}.o" for number in range(FILES))
    (work / "Makefile").write_text(f"all: {objects}\n\t@echo complete\n")
    yield room
    room.close()
    for host in labs.get(hosts.name).hosts:
        if host.faults:
            labs.heal(hosts.name, host.name)


def compiler(room: Room, *options: str) -> str:
    return " ".join(["dsh", "--sync", f"--chdir {room.work}=~/made", *options, "./slow-gcc"])


def objects(room: Room) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in room.work.glob("*.o")}


def test_objects_come_back_from_hosts_of_their_own_disks(room: Room) -> None:
    done = room.sh(f'make -j6 CC="{compiler(room, "-v")}"')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"complete"), done.stderr
    assert all(name in done.stderr for name in (b"lab01", b"lab02", b"lab03"))
    theirs = objects(room)
    assert len(theirs) == FILES
    assert room.sh("rm *.o; make CC=gcc").returncode == 0
    assert theirs == objects(room)
    # A header that changes here is there before the next compile.
    (room.work / "common.h").write_text("#define BASE 555\n")
    assert room.sh(f'rm f0.o; make f0.o CC="{compiler(room)}"').returncode == 0
    assert objects(room)["f0.o"] != theirs["f0.o"]


@pytest.mark.parametrize("retry", [True, False], ids=["with --retry", "without"])
def test_a_power_cut_in_the_middle_of_make(room: Room, hosts: Lab, retry: bool) -> None:
    options = ["-v", "--retry 1"] if retry else ["-v"]
    argv = ["make", "-k", "-j6", f"CC={compiler(room, *options)}"]
    with subprocess.Popen(
        argv, cwd=room.work, env=room.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as make:
        wait_until(lambda: any(row["host"] == "lab02" and row["ours"] for row in room.loads()), 20, room.loads)
        # Long enough for files to have come there, too short for a compile.
        time.sleep(0.4)
        labs.fail(hosts.name, "lab02", "poweroff")
        out, err = make.communicate(timeout=90)
    if not retry:
        assert make.returncode == 2, err
        assert b"lab02 was lost while" in err
        assert b"--retry" in err
        assert b"complete" not in out
        return
    assert (make.returncode, out.splitlines()[-1]) == (0, b"complete"), err
    theirs = objects(room)
    assert room.sh("rm *.o; make CC=gcc").returncode == 0
    assert theirs == objects(room)
