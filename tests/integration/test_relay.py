"""A payload that hosts pass on to each other over SSH: where it goes up, and what a broken link costs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lab import LabFactory, ssh
from tests.support.relaying import PAYLOAD_BYTES, Project

pytestmark = pytest.mark.root


@pytest.fixture
def project(lab: LabFactory, tmp_path: Path, program: Callable[[str], str]) -> Project:
    program("rsync")
    return Project(lab(count=5, rootless=False), tmp_path, f"~/relay{os.urandom(4).hex()}")


def test_the_payload_goes_up_once(project: Project) -> None:
    project.keys("12345")
    rows, said = project.deploy("--relay", "chain")
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "sent once to lab01, passed on over SSH to 4 of 4\n" in said
    # Nothing was left for rsync.
    assert [(row["bytes_sent"], row["files_sent"]) for row in rows] == [(0, 0)] * 5
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
    # What did not change comes from the version before.
    assert [(row["result"], row["bytes_sent"]) for row in rows] == [("deployed", 0)] * 5
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
    assert "passed on over SSH to 0 of 4; not reached by other hosts, so the rest by rsync from here: lab0" in said
    assert len(project.sums()) == 1


def test_little_or_few_goes_plainly(project: Project) -> None:
    rows, said = project.deploy()
    assert "relay" not in said
    assert all(row["bytes_sent"] > PAYLOAD_BYTES for row in rows)


def test_auto_leaves_to_rsync_what_hosts_have_in_an_older_version(project: Project) -> None:
    project.keys("12345")
    with (project.folder / "tasks.py").open("a") as tasks:
        tasks.write("from roomful import relay\nrelay.AUTO_BYTES = 1_000_000\n")
    big = project.folder / "resources" / "data" / "big"
    plain = replace_workdir(project)
    said = project.deploy()[1]
    assert "sent once to lab01" in said
    plain.deploy("--relay", "off")
    with big.open("r+b") as file:
        file.seek(PAYLOAD_BYTES // 3)
        file.write(os.urandom(1000))
    before = project.bytes_gone_up()
    rows, said = plain.deploy("--relay", "off")
    by_rsync = project.bytes_gone_up() - before
    rows, said = project.deploy()
    by_auto = project.bytes_gone_up() - before - by_rsync
    assert [row["result"] for row in rows] == ["deployed"] * 5, said
    assert "relay" not in said
    # To ask every host costs a login and a program of 50 kB.
    assert by_auto < by_rsync + 5 * 100_000
    assert len(project.sums()) == 1
    # Another file of the same name goes up once.
    big.write_bytes(os.urandom(PAYLOAD_BYTES))
    before = project.bytes_gone_up()
    rows, said = project.deploy()
    assert "sent once to lab01" in said
    assert project.bytes_gone_up() - before < 2 * PAYLOAD_BYTES
    assert len(project.sums()) == 1


def replace_workdir(project: Project) -> Project:
    """The same project with a workdir of its own."""
    other = copy.copy(project)
    other.workdir += "-plain"
    return other
