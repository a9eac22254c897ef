"""`inv experiments.run` and `experiments.list`, from the command line to the hosts and back."""

from __future__ import annotations

import csv
import json
import re
import subprocess
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


def test_resume_tells_files_of_the_same_name_apart(project: Experiments) -> None:
    for folder in ("a", "b"):
        project.write(f"{folder}/exp.py", "@reg_exp(servers=servers[:1])\ndef exp(servers): pass\n")
    assert project.statuses("a/exp.py") == {"exp": "ok"}
    assert project.statuses("b/exp.py", "--resume") == {"exp": "ok"}
    assert project.statuses("a", "--resume") == {"exp": "skipped"}


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


def test_the_report_needs_no_utf_8(project: Experiments) -> None:
    project.write(
        "exp.py", "@reg_exp(servers=servers[:1], params=ParameterGrid(a='\u20ac'))\ndef exp(servers, a): pass\n"
    )
    project.environment["PYTHONIOENCODING"] = "ascii"
    done = project.run("exp.py")
    assert (done.returncode, r"exp__a=\u20ac" in done.stdout) == (0, True), done.stderr


def test_results_that_have_no_place_are_said_in_a_line(project: Experiments) -> None:
    project.write("exp.py", "@reg_exp(servers=servers[:1])\ndef exp(servers): pass\n")
    (project.folder / "results").touch()
    done = project.run("exp.py")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert "results/experiments" in line
    assert "cannot make the folder: Not a directory" in line
