"""A payload that hosts pass on to each other over SSH: where it goes up, and what a broken link costs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.lab import Lab
from tests.support.lab import LabFactory, settings_for, ssh
from tests.support.workdirs import make_tree

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
PAYLOAD_BYTES = 3_000_000


class Project:
    """A project with a payload, and five hosts of which some may log in on the others."""

    def __init__(self, room: Lab, folder: Path, workdir: str) -> None:
        self.room, self.folder, self.workdir = room, folder, workdir
        make_tree(folder / "resources", {"run.py": "one", "data/a": "a"})
        (folder / "resources" / "data" / "big").write_bytes(os.urandom(PAYLOAD_BYTES))
        (folder / "resources" / "data" / "big").chmod(0o750)
        (folder / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
        settings_for(room, folder)

    def deploy(self, *words: str) -> tuple[list[dict[str, Any]], str]:
        """Deploy; returns the hosts' rows and what was said."""
        argv = [sys.executable, "-m", "invoke", "deploy", "--json", "--hosts", "lab", *words]
        environment = {**os.environ, "INVOKE_ROOMFUL_WORKDIR": self.workdir}
        done = subprocess.run(
            argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)["hosts"]
        return rows, done.stderr

    def keys(self, accepted: str) -> None:
        """Give hosts a key to the others, or take it away: ``accepted`` holds the last digits of those with one."""
        key = base64.b64encode((self.room.directory / "id_ed25519").read_bytes()).decode()
        for host in self.room.hosts:
            has = host.name[-1] in accepted
            make = f"umask 077; mkdir -p .ssh; echo {key} | base64 -d > .ssh/id_ed25519"
            assert ssh(self.room, host.name, make if has else "rm -f .ssh/id_ed25519").returncode == 0

    def sums(self) -> set[str]:
        command = f"cd {self.workdir.removeprefix('~/')} && sha256sum run.py data/big && stat -L -c %a data/big"
        return {ssh(self.room, host.name, command).stdout for host in self.room.hosts}


@pytest.fixture
def project(lab: LabFactory, tmp_path: Path, program: Callable[[str], str]) -> Project:
    program("rsync")
    return Project(lab(count=5, rootless=False), tmp_path, f"~/relay{os.urandom(4).hex()}")


def test_the_payload_goes_up_once(project: Project) -> None:
    project.keys("12345")
    rows, said = project.deploy("--relay", "chain")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "sent once to lab01, passed on over SSH to 4 of 4\n" in said
    assert sum(row["bytes_sent"] for row in rows) < 100_000
    assert len(project.sums()) == 1
    # Seeds are gone, as are the files with the keys of neighbours.
    left = (
        "ls -A "
        + project.workdir.removeprefix("~/")
        + "/.roomful/deploy/top/staging; ls -A /tmp | grep roomful-known"
    )
    assert [ssh(project.room, host.name, left).stdout for host in project.room.hosts] == [""] * 5
    (project.folder / "resources" / "run.py").write_text("two")
    rows, said = project.deploy("--relay", "chain")
    assert "sent once" in said
    assert len(project.sums()) == 1
    assert project.deploy("--relay", "chain")[0][4]["result"] == "current"


def test_a_broken_link_is_healed_by_the_others(project: Project) -> None:
    # lab02 has it and cannot pass it on.
    project.keys("1345")
    rows, said = project.deploy("--relay", "chain")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "passed on over SSH to" in said
    assert len(project.sums()) == 1
    assert sum(row["bytes_sent"] for row in rows) < PAYLOAD_BYTES


def test_hosts_that_know_no_way_to_each_other_are_served_from_here(project: Project) -> None:
    project.keys("")
    rows, said = project.deploy("--relay", "chain")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "passed on over SSH to 0 of 4; the rest by rsync from here" in said
    assert len(project.sums()) == 1


def test_little_or_few_goes_plainly(project: Project) -> None:
    rows, said = project.deploy()
    assert "relay" not in said
    assert all(row["bytes_sent"] > PAYLOAD_BYTES for row in rows)
