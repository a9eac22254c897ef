"""``inv bench.run`` on three machines of a lab, as a process that a test can watch, and break the machines of."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.support.benchmarks import RAN, programs
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, need, ssh
from tests.support.waiting import wait_until

#: A whole run with its machines, on a computer that others use too.
PATIENCE = 240.0
OPTIONS = ("bench/def.xml", "--tool=tool.tar.gz", "--runexec-options=--no-container")
#: What a test may put something else in the place of.
RSYNC = "/usr/bin/rsync"
#: Somebody's own script holds the machine.
TAKE = "setsid -f flock /tmp/benchexec.lock sleep 86399 </dev/null >/dev/null 2>&1"


@pytest.fixture
def room(lab: LabFactory) -> Iterator[Lab]:
    """Three hosts whose root may use cgroups; what a test breaks is mended."""
    if not shutil.which("benchexec", path=programs()):
        need("not installed: benchexec (requirements.txt)")
    found = lab(count=3, rootless=False, user="root")
    yield found
    heal(found)
    for host in found.hosts:
        ssh(
            found,
            host.name,
            f"umount /sys/fs/cgroup {RSYNC} /proc/cpuinfo; rm -f {RAN}; pkill -x flock; pkill -x -f 'sleep 86399'",
        )


def heal(room: Lab) -> None:
    """Mend what is broken."""
    for host in labs.get(room.name).hosts:
        if host.faults:
            labs.heal(room.name, host.name)


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Iterator[Project]:
    home = tmp_path / "home"
    home.mkdir()
    root = tmp_path / "p"
    root.mkdir()
    made = project_for(room, root, home, lease_seconds=8.0)
    yield made
    for process in _started:
        process.kill()
        process.wait()
    _started.clear()
    heal(room)
    if (root / ".roomful" / "bench").exists():
        for folder in (root / ".roomful" / "bench").iterdir():
            made.inv("bench.stop", folder.name)


#: What a test has started, and perhaps left.
_started: list[subprocess.Popen[bytes]] = []


class Running:
    """``inv bench.run`` as a process of its own, whose words come into a file."""

    def __init__(self, project: Project, *words: str) -> None:
        self.said = project.root / "said.txt"
        self.out = project.root / "out.txt"
        with self.said.open("wb") as said, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                project.argv(["bench.run", *OPTIONS, *words]),
                cwd=project.root,
                env=project.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
            )
        _started.append(self.process)

    def until(self, pattern: str, deadline: float = PATIENCE) -> re.Match[str]:
        """Wait until it says something."""

        def look() -> re.Match[str] | None:
            text = self.said.read_text()
            assert re.search(pattern, text) or self.process.poll() is None, text
            return re.search(pattern, text)

        found = wait_until(look, deadline, self.said.read_text, 0.1)
        assert found is not None
        return found

    def wait(self) -> int:
        """Wait for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE)
        self.process.kill()
        raise AssertionError(self.said.read_text())


def ran(room: Lab) -> int:
    """How many tasks the tool was called with, on all hosts."""
    return sum(int(ssh(room, host.name, f"cat {RAN} 2>/dev/null | wc -l").stdout or 0) for host in room.hosts)


def left(room: Lab, host: str) -> str:
    """What a run has left on a host, besides the lock's file."""
    look = "ls -d ~/roomful* /tmp/roomful-* 2>/dev/null; pgrep -l 'roomful-|benchexec'; pgrep -fl '[r]oomful-.*pyz'"
    return ssh(room, host, look).stdout
