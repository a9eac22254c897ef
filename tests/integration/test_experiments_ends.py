"""Whatever ends an experiment, nothing of it is left running on any host."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.support.experiments import Experiments
from tests.support.lab import LabFactory, lab, rootless_lab
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree, wait_until_gone

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, rootless_lab)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_leaves_nothing_running_anywhere(project: Experiments, jobs: str) -> None:
    marks = [new_mark(), new_mark()]
    project.write(
        "exp.py",
        f"""
for number, mark in enumerate({marks!r}):
    @reg_exp(servers=servers[number:number + 1], params=ParameterGrid(mark=mark))
    def exp(servers, mark):
        servers[0].run_cmd({TREE!r}.replace('{{mark}}', mark)).wait()
""",
    )
    process = project.start("exp.py", "--jobs", jobs)
    started = marks[: int(jobs)]
    for mark in started:
        wait_for_tree(mark)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert len(re.findall(r"exp__mark=\S+ +interrupted", out)) == len(started)
    assert "Traceback" not in err
    for mark in marks:
        assert alive(mark) == []


def test_a_controller_that_is_killed_leaves_nothing_running(project: Experiments) -> None:
    mark = new_mark()
    text = f"@reg_exp(servers=servers)\ndef exp(servers): servers[1].run_cmd({TREE.format(mark=mark)!r}).wait()\n"
    project.write("exp.py", text)
    process = project.start("exp.py")
    wait_for_tree(mark)
    process.kill()
    process.communicate()
    wait_until_gone(mark, 5)


@pytest.mark.root
def test_a_cut_network_leaves_nothing_running_after_5_seconds(lab: LabFactory, tmp_path: Path) -> None:
    found = lab(count=2, rootless=False, own="experiments")
    project = Experiments(tmp_path, found)
    mark = new_mark()
    text = f"@reg_exp(servers=servers[:1])\ndef exp(servers): servers[0].run_cmd({TREE.format(mark=mark)!r}).wait()\n"
    project.write(
        "exp.py", text + "@reg_exp(servers=servers[1:])\ndef other(servers): servers[0].run_cmd('true').wait()\n"
    )
    process = project.start("exp.py", "--keep-going")
    wait_for_tree(mark)
    labs.fail(found.name, "lab01", "cut")
    begin = time.monotonic()
    try:
        wait_until_gone(mark, 5)
        assert time.monotonic() - begin > 1
        out, err = process.communicate(timeout=60)
        assert re.search(r"exp +failed .*lost", out), out + err
        assert re.search(r"other +ok", out)
    finally:
        labs.heal(found.name, "lab01")
        process.kill()
        process.communicate()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_between_two_attempts_begins_no_other(project: Experiments, jobs: str) -> None:
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:1])
def exp(servers):
    with open('attempts', 'a') as file:
        file.write('one\\n')
    return Action.RESTART
""",
    )
    process = project.start("exp.py", "--jobs", jobs)
    assert process.stderr
    seen = ""
    while "asks for a restart" not in seen:
        seen = process.stderr.readline()
        assert seen
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "exp         interrupted" in out) == (130, True), out + err
    assert (project.folder / "attempts").read_text() == "one\n"
