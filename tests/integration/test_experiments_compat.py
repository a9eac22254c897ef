"""Experiment files of distexprunner, of both versions, run unmodified."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.experiments import Experiments
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, rootless_lab)


def test_unmodified_distexprunner_files_run(project: Experiments, rootless_lab: Lab) -> None:
    """The seed's own examples, on the lab's addresses, with the old daemon's port."""
    address = rootless_lab.hosts[0].address
    project.write("old/config.py", "SERVER_PORT = 20000\n", head="")
    project.write(
        "old/exp.py",
        f"""
import config
from distexprunner import *

server_list = ServerList(
    Server('node01', '{address}', config.SERVER_PORT, optional_field=True),
)

@reg_exp(servers=server_list)
def kill_yes(servers):
    for s in servers[lambda s: s.optional_field==True]:
        yes_cmd = s.run_cmd('yes > /dev/null')
        sleep(0.3)    # not time.sleep()!
        yes_cmd.kill()

parameter_grid = ParameterGrid(
    a=range(1, 3),
    b=[2, 4],
    to_file=[True, False]
)

@reg_exp(servers=server_list, params=parameter_grid)
def grid(servers, a, b, to_file):
    for s in servers:
        stdout = File('grid.log', append=True)
        if not to_file:
            stdout = [stdout, Console(fmt=f'{{s.id}}: %s')]

        s.run_cmd(f'echo {{a}} {{b}}', stdout=stdout).wait()

@reg_exp(servers=server_list, raise_on_rc=False, max_restarts=3)
def timeout(servers):
    rc = servers[0].run_cmd('sleep infinity', timeout=1).wait()
    assert rc == ReturnCode.TIMEOUT
    import distexprunner, config
    assert distexprunner.Action is Action and config.SERVER_PORT == 20000

@reg_exp(servers=server_list)
def csv_parser(servers):
    csvs = IterClassGen(CSVGenerator, [
        r'value=(?P<value>\\d+)',
        CSVGenerator.Array(r'other=(?P<other>\\d+)'),
    ])
    servers[0].run_cmd('for i in {{1..10}}; do echo "value=$i,other=$((i*2))"; done', stdout=next(csvs)).wait()
    for csv in csvs:
        csv.write('file.csv')
""",
        head="",
    )
    names = ["kill_yes"]
    names += [f"grid__a={a}_b={b}_to_file={to}" for a in (1, 2) for b in (2, 4) for to in (True, False)]
    assert project.statuses("old") == dict.fromkeys([*names, "timeout", "csv_parser"], "ok")
    assert (project.folder / "grid.log").read_text() == "1 2\n1 2\n1 4\n1 4\n2 2\n2 2\n2 4\n2 4\n"
    assert (project.folder / "file.csv").read_text() == "value,other\n10,2|4|6|8|10|12|14|16|18|20\n"


def test_version_1_files_run_in_compatibility_mode(project: Experiments, rootless_lab: Lab) -> None:
    first, second = (host.address for host in rootless_lab.hosts[:2])
    project.write(
        "v1.py",
        f"""
import experiment
import time

SEEN = []

class exp10(experiment.Base):
    SERVERS = [
        experiment.Server('node1', '{first}', custom_field=42),
        experiment.Server('off', '127.200.200.200', 20001),
    ]
    def experiment(self, target):
        assert SEEN == ['before', 'exp2', 'exp2', 'x_5', 'x_6']
        printer = experiment.Printer(fmt=str(target('node1').data.custom_field) + ' "{{line}}"\\n', rstrip=True)
        cmd = target('node1').run_cmd('read p && echo $p; exit 3', stdout=[printer, SEEN.append])
        cmd.stdin('foobar\\n')
        time.sleep(0.5)
        assert SEEN[-1] == 'foobar\\n', 'time.sleep held the handlers back'
        assert cmd.wait() == 3
        try:
            target('off').run_cmd('true')
        except experiment.errors.NoConnectionError:
            return
        raise AssertionError('there is a connection to nowhere')

class exp2(experiment.Base):
    SERVERS = [experiment.Server('node2', '{second}')]
    def experiment(self, target):
        SEEN.append('exp2')
        log = experiment.Logfile('ls.log', append=True)
        [target(s).run_cmd('echo line', stdout=log).wait() for s in self.SERVERS]
        if len(SEEN) < 3:
            raise experiment.actions.Restart

class AA_CompileJob(experiment.Base):
    SERVERS = exp2.SERVERS
    RUN_ALWAYS = True
    def experiment(self, target):
        SEEN.append('before')

def factory(a, b):
    class exp3(experiment.Base):
        SERVERS = exp2.SERVERS
        def experiment(self, target):
            SEEN.append(f'{{a}}_{{b}}')
    return exp3

experiment.factory.Grid(factory, ['x'], range(5, 7))
""",
        head="",
    )
    done = project.run("v1.py", "--compatibility-mode", "--keep-going")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^v1 +(\S+) +ok +(\d)", done.stdout, re.MULTILINE) == [
        ("AA_CompileJob", "0"), ("exp2", "1"), ("exp3_x_5", "0"), ("exp3_x_6", "0"), ("exp10", "0"),
    ]  # fmt: skip
    assert 'CONSOLE 42 "foobar"' in done.stderr
    assert (project.folder / "ls.log").read_text() == "line\nline\n"
    skipped = project.inv("experiments.list", "v1.py", "--compatibility-mode", "--filter", "exp3*")
    assert re.findall(r"^v1 +(\S+)", skipped.stdout, re.MULTILINE) == ["AA_CompileJob", "exp3_x_5", "exp3_x_6"]
