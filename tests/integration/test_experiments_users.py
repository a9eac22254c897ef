"""Experiments whose commands become another user's by sudo: on hosts that allow all of it, and only some."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.remote.tree import GIVE_UP
from tests.support.experiments import Experiments
from tests.support.lab import LabFactory, as_root, lab, missing, need
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree, wait_until_gone

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root]

#: What sudo lets the student do without a password on each host.
RULES = {"lab01": "ALL", "lab02": "/usr/bin/sleep"}


@pytest.fixture(scope="module")
def room(lab: LabFactory) -> Lab:
    need(missing({"sudo": "sudo"}))
    found = lab(own="sudo", count=2, rootless=False)
    for host, commands in RULES.items():
        rule = f"student ALL=(ALL) NOPASSWD: {commands}"
        as_root(
            found,
            host,
            f"echo '{rule}' > /run/sudoers; chmod 440 /run/sudoers; mount --bind /run/sudoers /etc/sudoers",
        )
    return found


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, room)


def owners(mark: str) -> set[int]:
    return {Path(f"/proc/{pid}").stat().st_uid for pid in alive(mark, "sleep")}


def end(mark: str) -> None:
    """End what a host would not let the experiment end."""
    for pid in alive(mark):
        os.kill(pid, signal.SIGKILL)


BODY = """
@reg_exp(servers=servers[{number}:{number} + 1], raise_on_rc=False)
def exp(servers):
    command = servers[0].run_cmd({command!r}, stdout=Console())
    {then}
"""


def start_tree(project: Experiments, mark: str, then: str) -> subprocess.Popen[str]:
    """Start an experiment that runs a TREE as root on lab01, and wait for that."""
    (project.folder / "tree.sh").write_text(TREE.format(mark=mark))
    text = BODY.format(number=0, command="sudo sh tree.sh", then=then)
    project.write("exp.py", text.replace("    command =", "    servers[0].send_file('tree.sh', '.')\n    command ="))
    process = project.start("exp.py")
    wait_for_tree(mark)
    return process


def test_a_signal_reaches_a_command_of_roots(project: Experiments) -> None:
    mark = new_mark()
    then = "sleep(1); command.signal('TERM'); assert command.wait() in (-15, 143), command.wait()"
    project.write("exp.py", BODY.format(number=0, command=f"sudo sleep {mark}", then=then))
    done = project.run("exp.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert alive(mark) == []


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("sleep(2); assert command.kill() == -9; log('killed')", id="kill"),
        pytest.param("sleep(2)", id="the experiment's end"),
    ],
)
def test_a_tree_of_roots_ends_where_sudo_may_kill(project: Experiments, then: str) -> None:
    mark = new_mark()
    process = start_tree(project, mark, then)
    assert owners(mark) == {0}
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err
    assert alive(mark) == []


def test_a_lost_connection_ends_a_tree_of_roots_in_5_seconds(project: Experiments, room: Lab) -> None:
    mark = new_mark()
    process = start_tree(project, mark, "command.wait()")
    labs.fail(room.name, "lab01", "cut")
    try:
        wait_until_gone(mark, 5)
    finally:
        labs.heal(room.name, "lab01")
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("command", "then"),
    [
        pytest.param("sudo sleep {mark}", "sleep(1); command.kill(); log('never')", id="kill"),
        pytest.param("sudo sleep {mark}", "sleep(1)", id="the experiment's end"),
        pytest.param("sudo sleep {mark} > /dev/null 2>&1 & sleep 1", "command.wait()", id="left in the background"),
    ],
)
def test_what_may_not_be_killed_is_named_and_fails_the_experiment(
    project: Experiments, command: str, then: str
) -> None:
    mark = new_mark()
    project.write("exp.py", BODY.format(number=1, command=command.format(mark=mark), then=then))
    begin = time.monotonic()
    try:
        done = project.run("exp.py")
        assert time.monotonic() - begin < GIVE_UP + 15
        assert done.returncode == 1, done.stdout + done.stderr
        pids = alive(mark)
        assert pids
        assert re.search(r"^exp +\S+ +failed .*\((sudo|sleep), of user 0\)", done.stdout, re.MULTILINE), done.stdout
        assert "sudo -n kill" in done.stdout
        assert "Traceback" not in done.stderr
    finally:
        end(mark)
