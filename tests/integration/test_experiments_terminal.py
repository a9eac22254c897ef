"""Experiments on a terminal: typing into their commands, and the progress bar."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.experiments import Experiments, Terminal
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, rootless_lab)


INTERACTIVE = """
@reg_exp(servers=servers[:1])
def exp(servers):
    {}
"""


def test_typing_into_commands_from_a_menu(project: Experiments) -> None:
    body = """controller = StdinController()
    for s in ('first', 'second'):
        loop = f'while read -r x; do echo {s} got $x; done; echo {s} ends'
        servers[0].run_cmd(loop, stdout=Console(), stdin=controller)
    controller.wait()
    log('goes on')"""
    project.write("exp.py", INTERACTIVE.format(body))
    refused = project.run("exp.py")
    assert (refused.returncode, "this needs a terminal" in refused.stdout) == (1, True)
    with Terminal(project, "experiments.run", "exp.py") as terminal:
        terminal.expect("[1] lab01")
        terminal.type("7\n")
        terminal.expect("no command '7'")
        terminal.type("1\n")
        terminal.expect("typing into")
        terminal.type("helloo\x7f\n")
        terminal.expect("second got hello")
        terminal.type("\x08")
        terminal.type("0\n")
        terminal.type("there\n")
        terminal.expect("first got there")
        terminal.type("\x04")
        terminal.expect("goes on")
        assert terminal.end() == 0


def test_forwarding_every_key(project: Experiments) -> None:
    body = """cat = servers[0].run_cmd('cat', stdout=Console('<%s>'))
    forward_stdin_to(cmd=cat)
    log('goes on')
    cat.stdin('', close=True)
    cat.wait()"""
    project.write("exp.py", INTERACTIVE.format(body))
    with Terminal(project, "experiments.run", "exp.py") as terminal:
        terminal.expect("every key goes to")
        terminal.type("some keys\n")
        terminal.expect("<some keys>")
        terminal.type("\x1b")
        terminal.expect("goes on")
        assert terminal.end() == 0


def test_the_progress_bar_does_not_hide_the_log(project: Experiments) -> None:
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:1], params=ParameterGrid(a=range(3)))
def exp(servers, a): servers[0].run_cmd(f'sleep 0.3; echo line {a}', stdout=Console()).wait()
""",
    )
    with Terminal(project, "experiments.run", "exp.py", "--progress") as terminal:
        assert terminal.end() == 0
        assert all(f"CONSOLE line {a}" in terminal.seen for a in range(3))
        assert "1/3" in terminal.seen
        assert re.search(r"experiments.*exp__a=1", terminal.seen)
