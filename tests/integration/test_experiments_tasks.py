"""`inv experiments.run` and `experiments.list`, from the command line to the hosts and back."""

from __future__ import annotations

import csv
import http.server
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.hosts import write_host_list
from roomful.lab import Lab
from tests.support.experiments import HEAD, Experiments, Terminal
from tests.support.lab import CHECKOUT, lab, rootless_lab

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, rootless_lab)


def test_the_examples_run(project: Experiments) -> None:
    done = project.run(str(CHECKOUT / "resources" / "experiments"))
    assert done.returncode == 0, done.stderr
    with (project.folder / "echo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["size"], row["requests"]) for row in rows] == [
        (size, requests) for size in ("1", "1024", "65536") for requests in ("200", "1000")
    ]
    assert all(float(row["requests_per_second"]) > 0 and float(row["latency_us_median"]) > 0 for row in rows)
    assert done.stderr.count("it says: hello Ada") == 2
    assert "flaky asks for a restart (number 2)" in done.stderr
    assert re.search(r"^restart +flaky +ok +2 ", done.stdout, re.MULTILINE)
    assert "9 experiments: 9 ok" in done.stderr


def test_what_a_run_leaves_behind(project: Experiments) -> None:
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:2], params=ParameterGrid(a=[1, 2]), repeat=2)
def bench(servers, a):
    row = CSVGenerator(r'x=(?P<x>.)')
    servers[0].run_cmd(f'echo x={a}', stdout=row).wait()
    row.write('out.csv')
""",
    )
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "exp.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], cwd=project.folder, check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project.folder, text=True).strip()
    first = project.run("exp.py", "--seed", "5")
    assert first.returncode == 0, first.stderr
    (folder,) = (project.folder / "results" / "experiments").iterdir()
    assert f"results: {folder}" in first.stderr
    one = json.loads(next(folder.glob("00001-*.json")).read_text())
    assert (one["seed"], one["status"], one["code"]["commit"], one["code"]["dirty"]) == (5, "ok", commit, True)
    assert one["command_line"] == "inv experiments.run exp.py --seed=5"
    assert set(one["servers"]) == {"lab01", "lab02"}
    for machine in (*one["servers"].values(), one["controller"]):
        assert {"hostname", "kernel", "cpu", "cpus"} <= set(machine)
    assert one["began"] < one["ended"]
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["a"], row["repetition"], row["x"]) for row in rows) == [
        ("1", "1", "1"), ("1", "2", "1"), ("2", "1", "2"), ("2", "2", "2"),
    ]  # fmt: skip
    assert [row["experiment"] for row in rows] == [
        row["experiment"] for row in json.loads((folder / "results.json").read_text())
    ]
    beside = json.loads((project.folder / "out.csv.provenance.json").read_text())
    assert [run["seed"] for run in beside["runs"]] == [5]
    # The same seed gives the same order, and the file says who wrote to it.
    again = project.run("exp.py", "--seed", "5")
    assert [line.split()[1] for line in again.stdout.splitlines()] == [
        line.split()[1] for line in first.stdout.splitlines()
    ]
    assert len(json.loads((project.folder / "out.csv.provenance.json").read_text())["runs"]) == 2


def test_resume(project: Experiments) -> None:
    project.write(
        "exp.py",
        """
from pathlib import Path
@reg_exp(servers=servers[:1], run_always=True)
def always(servers): pass
@reg_exp(servers=servers[:1], params=ParameterGrid(a=[1, 2, 3]))
def grid(servers, a):
    if a == 2 and not Path('fixed').exists():
        servers[0].run_cmd('exit 9').wait()
""",
    )
    assert project.statuses("exp.py") == {
        "always": "ok", "grid__a=1": "ok", "grid__a=2": "failed", "grid__a=3": "not run",
    }  # fmt: skip
    (project.folder / "fixed").touch()
    listed = project.inv("experiments.list", "exp.py", "--resume")
    assert re.findall(r"(\S+) +lab01 +(to run|finished)", listed.stdout) == [
        ("always", "to run"), ("grid__a=1", "finished"), ("grid__a=2", "to run"), ("grid__a=3", "to run"),
    ]  # fmt: skip
    assert project.statuses("exp.py", "--resume") == {
        "always": "ok", "grid__a=1": "skipped", "grid__a=2": "ok", "grid__a=3": "ok",
    }  # fmt: skip
    assert project.run("exp.py", "--resume").returncode == 0
    # Without the flag everything runs, and counts anew.
    assert set(project.statuses("exp.py").values()) == {"ok"}
    # distexprunner's own file counts as well.
    (project.folder / ".roomful" / "experiments.jsonl").unlink()
    (project.folder / ".distexprunner").write_text('{"name": "exp__grid", "params": {"a": 3}}\n')
    assert project.statuses("exp.py", "--resume")["grid__a=3"] == "skipped"


def test_the_first_failure_ends_the_run_unless_told_to_keep_going(project: Experiments) -> None:
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:1])
def breaks(servers): raise KeyError('nope')
@reg_exp(servers=servers[:1])
def works(servers): print('said by the experiment')
""",
    )
    project.write("broken.py", "servers['lab99']\n")
    stopped = project.run("exp.py")
    assert stopped.returncode == 1
    assert re.search(r"breaks +failed .*KeyError: 'nope' \(exp.py:5\)", stopped.stdout)
    assert re.search(r"works +not run .*an experiment before it failed", stopped.stdout)
    assert "Traceback" in stopped.stderr
    assert "raise KeyError('nope')" in stopped.stderr
    assert "runner.py" not in stopped.stderr
    refused = project.run("exp.py", "broken.py")
    assert refused.returncode == 2
    assert "broken.py:3: no server 'lab99'; did you mean 'lab" in refused.stderr.splitlines()[-1]
    assert "Traceback" in refused.stderr
    assert refused.stdout == ""
    going = project.run("broken.py", "exp.py", "--keep-going", "--json")
    assert going.returncode == 1
    document = json.loads(going.stdout)
    assert (document["ok"], document["failed"], len(document["broken"])) == (1, 1, 1)
    assert "said by the experiment" in going.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such.py"], "no/such.py: no such file or folder"),
        ([], "no experiments given"),
        (["exp.py", "--jobs", "0"], "bad --jobs 0"),
        (["exp.py", "--seed", "x"], "bad --seed 'x'"),
        (["exp.py", "--filter", "nope*"], "no experiments: none is 'nope*'"),
        (["exp.py", "--ssh-config", "nowhere"], "nowhere: no such file"),
        (["exp.py", "--slack-webhook", "hooks"], "not a webhook's URL"),
        (["exp.py", "--log", "no/such/folder.log"], "no/such/folder.log: cannot write the log"),
        (["empty.py"], "no experiments: no @reg_exp in these files"),
        (["huge.py"], "1,000,000 experiments; make the grid smaller, or give --yes"),
    ],
)
def test_bad_input_is_one_line_and_code_2(project: Experiments, words: list[str], message: str) -> None:
    project.write("exp.py", "@reg_exp(servers=servers)\ndef exp(servers): pass\n")
    project.write("empty.py", "x = 1\n")
    grid = "ParameterGrid(a=range(1000), b=range(1000))"
    project.write("huge.py", f"@reg_exp(servers=servers, params={grid})\ndef exp(servers, a, b): pass\n")
    done = project.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (project.folder / "results").exists()


def test_listing(project: Experiments) -> None:
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers, params=ParameterGrid(a=range(4, 6), b=[4], to_file=[True, False]))
def grid(servers, a, b, to_file): pass
@reg_exp(servers=servers[:1], run_always=True)
def compile(servers): pass
""",
    )
    listed = project.inv("experiments.list", "exp.py", "--filter", "*a=4*")
    assert [line.split() for line in listed.stdout.splitlines()[2:]] == [
        ["exp", "grid__a=4_b=4_to_file=True", "lab01,lab02,lab03"],
        ["exp", "grid__a=4_b=4_to_file=False", "lab01,lab02,lab03"],
        ["exp", "compile", "lab01"],
    ]
    assert listed.stderr == "3 experiments\n"
    dry = project.run("exp.py", "--dry-run", "--json")
    assert json.loads(dry.stdout)["count"] == 5
    assert not (project.folder / ".roomful").exists()
    assert not (project.folder / "results").exists()


def test_a_huge_grid_is_asked_about(project: Experiments) -> None:
    grid = "ParameterGrid(a=range(20000))"
    project.write("huge.py", f"@reg_exp(servers=servers, params={grid})\ndef exp(servers, a): pass\n")
    assert project.inv("experiments.list", "huge.py", "--yes").stderr == "20000 experiments\n"
    with Terminal(project, "experiments.list", "huge.py") as terminal:
        terminal.expect("20,000 experiments: go on? [y/N] ")
        terminal.type("n\n")
        assert terminal.end() == 2
    with Terminal(project, "experiments.list", "huge.py", "--filter", "exp__a=77") as terminal:
        terminal.expect("go on?")
        terminal.type("y\n")
        terminal.expect("1 experiment")
        assert terminal.end() == 0


def test_the_log_goes_to_a_file_in_full(project: Experiments) -> None:
    project.write(
        "exp.py",
        "@reg_exp(servers=servers[:1])\n"
        "def exp(servers): servers[0].run_cmd('echo said', stdout=Console('>%s')).wait()\n",
    )
    quiet = project.run("exp.py", "--log", "run.log")
    loud = project.run("exp.py", "--log", "run.log", "--verbose")
    log = (project.folder / "run.log").read_text()
    assert log.count("CONSOLE >said") == 2
    assert len(re.findall(r"lab01: 'echo said' pid=\d+", log)) == 2
    assert "pid=" not in quiet.stderr
    assert "pid=" in loud.stderr


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An HTTP server that keeps what is posted to it."""
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def test_word_goes_to_a_webhook(project: Experiments, webhook: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, got = webhook
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:1], params=ParameterGrid(a=[1, 2]))
def exp(servers, a): assert a == 1
""",
    )
    done = project.run("exp.py", "--slack-webhook", f"{url}/SECRET")
    assert done.returncode == 1
    ((kind, body),) = got
    assert kind == "application/json"
    text = json.loads(body)["text"]
    assert re.match(r"2 experiments: 1 ok, 1 failed in \d", text)
    assert "exp__a=2: AssertionError (exp.py:5)" in text
    assert "results: " in text
    kept = [path.read_text() for path in project.folder.rglob("*.json*")]
    assert not any("SECRET" in content for content in [*kept, done.stdout, done.stderr])


@pytest.mark.parametrize("path", ["/broken", None], ids=["answers 500", "nobody there"])
def test_a_notification_that_fails_only_warns(
    project: Experiments, webhook: tuple[str, list[tuple[str, bytes]]], path: str | None
) -> None:
    project.write("exp.py", "@reg_exp(servers=servers[:1])\ndef exp(servers): pass\n")
    done = project.run("exp.py", "--slack-webhook", webhook[0] + path if path else "http://127.0.0.1:1/SECRET")
    assert done.returncode == 0
    assert "warning: webhook at 127.0.0.1: the notification was not sent" in done.stderr
    assert "SECRET" not in done.stderr


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


def test_settings_and_flags_say_how_servers_are_reached(project: Experiments, rootless_lab: Lab) -> None:
    address = rootless_lab.hosts[0].address
    write_host_list(project.folder / "host_lists" / "lab.txt", rootless_lab.entries[1:])
    (project.folder / "invoke.yaml").write_text("roomful:\n  connect_timeout_seconds: 5\n")
    text = f"servers = ServerList(Server('a', '{address}', {rootless_lab.port}))\n@reg_exp(servers=servers)\n"
    project.write(
        "exp.py", text + "def exp(servers): servers[0].run_cmd('true').wait()\n", HEAD.splitlines()[0] + "\n"
    )
    unknown = project.run("exp.py")
    assert (unknown.returncode, "host-key" in unknown.stdout) == (1, True)
    assert project.run("exp.py", "--ssh-config", str(rootless_lab.ssh_config)).returncode == 0
    refused = project.run("exp.py", "--ssh-config", str(rootless_lab.ssh_config), "--user", "no-such-user")
    assert (refused.returncode, "auth: no-such-user" in refused.stdout) == (1, True)


def test_handlers_see_functions(project: Experiments) -> None:
    """Any callable is a handler, and the experiment's own output does not mix with the data on stdout."""
    project.write(
        "exp.py",
        "@reg_exp(servers=servers[:1])\ndef exp(servers): servers[0].run_cmd('echo x', stdout=print).wait()\n",
    )
    done = project.run("exp.py", "--json")
    assert json.loads(done.stdout)["ok"] == 1
    assert "\nx\n" in done.stderr
