"""Every step on hosts whose accounts have another login shell than bash: all that we run passes through it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.agent.keeper_link import link_argv
from roomful.lab import Lab
from roomful.login_shell import command_line
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, change_shell, lab, ssh

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root]

SHELLS = {"lab01": "tcsh", "lab02": "fish", "lab03": "zsh", "lab04": "dash"}
#: Every character that some shell takes for its own, and what csh can do with none of its quotes.
HARD = [
    "a b",
    "it's",
    "back\\slash\\",
    "!!",
    "a!b",
    "$HOME",
    "`id`",
    "=ls",
    "~",
    "{a,b}",
    "*",
    "two\nlines\n",
    "%",
    '"',
]


@pytest.fixture(scope="module")
def room(lab: LabFactory) -> Lab:
    found = lab(own="login shells", count=5, rootless=False)
    for host, program in SHELLS.items():
        change_shell(found, host, program)
    return found


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Iterator[Project]:
    made = project_for(room, tmp_path, tmp_path)
    yield made
    made.inv("stop-clients", "--now")
    made.inv("stop-server", "--forget", "--yes")


@pytest.mark.parametrize("host", [*SHELLS, "lab05"])
def test_words_arrive_as_they_are(room: Lab, host: str) -> None:
    done = ssh(room, host, command_line(["printf", "%s\\0", *HARD]))
    assert done.stdout.split("\0")[:-1] == HARD, done.stderr


def test_the_whole_workflow(project: Project) -> None:
    assert project.inv("filter", "--hosts", "lab", "--output", "mine", "--strict").returncode == 0
    assert project.inv("doctor", "--hosts", "mine").returncode == 0

    done = project.inv("run", "--hosts", "mine", "--gather", "--", "printf", "<%s>", *HARD)
    assert done.returncode == 0, done.stderr
    assert "(5)" in done.stdout
    said = "".join(f"<{word}>" for word in HARD)
    assert said in done.stdout
    (project.root / "script.sh").write_text('echo "$1 says: it\'s \\\\ !"\nexit 3\n')
    done = project.inv("script", "script.sh", "lab!", "--hosts", "mine")
    assert (done.returncode, done.stdout.count("lab! says: it's \\ !")) == (1, 5), done.stdout + done.stderr
    assert done.stderr.count("exit 3") >= 1
    fed = project.inv("run", "--hosts", "mine", "--stdin", "script.sh", "--", "wc -c; exit 0")
    assert fed.returncode == 0, fed.stderr

    code = project.root / "code"
    code.mkdir()
    (code / "it's !\\ a file").write_text("data")
    assert (done := project.inv("deploy", "code", "--hosts", "mine")).returncode == 0, done.stderr
    assert project.inv("deploy", "code", "--relay", "chain", "--hosts", "mine").returncode == 0
    assert project.inv("create-folders", "out !", "--hosts", "mine").returncode == 0

    assert (done := project.inv("start-server")).returncode == 0, done.stderr
    assert (done := project.inv("start-clients", "--hosts", "mine")).returncode == 0, done.stderr
    tasks = [f'test -f "it\'s !\\\\ a file" && echo {number} > "out !/{number}"' for number in range(20)]
    (project.root / "tasks.txt").write_text("\n".join(tasks) + "\n")
    assert (done := project.inv("submit", "tasks.txt", "--wait")).returncode == 0, done.stderr
    assert (done := project.inv("collect", "out !", "--hosts", "mine")).returncode == 0, done.stderr
    assert len(list((project.root / "results").glob("lab*/out !/*"))) == 20
    assert (done := project.inv("stop-clients", "--hosts", "mine")).returncode == 0, done.stderr
    assert (done := project.inv("stop-server", "--forget", "--yes")).returncode == 0, done.stderr
    assert (done := project.inv("clean", "--hosts", "mine", "--workdir", "--yes")).returncode == 0, done.stderr


@pytest.mark.parametrize("host", SHELLS)
def test_the_server_on_such_a_host(project: Project, host: str) -> None:
    assert (done := project.inv("start-server", "--on", host)).returncode == 0, done.stderr
    (project.root / "tasks.txt").write_text("true\n")
    assert (done := project.inv("submit", "tasks.txt")).returncode == 0, done.stderr
    assert project.json("tasks")["tasks"][0]["state"] == "todo"
    assert (done := project.inv("stop-server", "--forget", "--yes")).returncode == 0, done.stderr


def test_experiments(project: Project) -> None:
    (project.root / "exp.py").write_text("""
from roomful.experiments import *

@reg_exp(servers=ServerList.from_hosts("lab"))
def exp(servers):
    for server in servers:
        lines = []
        assert server.run_cmd("echo {1..3} \\"$0\\"; echo '!!' \\\\\\\\", stdout=lines.append).wait() == 0
        assert lines == ["1 2 3 /bin/bash\\n", "!! \\\\\\n"], lines
        server.send_file("exp.py", "it's !.py")
        assert server.run_cmd("cat", stdin="two\\nlines!\\n", stdout=lines.append).wait() == 0
        assert lines[2:] == ["two\\n", "lines!\\n"], lines
""")
    done = project.inv("experiments.run", "exp.py")
    assert done.returncode == 0, done.stderr + done.stdout


def test_dispatching(project: Project) -> None:
    try:
        assert (done := project.inv("start-dispatcher", "--hosts", "lab")).returncode == 0, done.stderr
        for host in SHELLS:
            chdir = f"--chdir={project.root}=/tmp"
            done = project.inv("dispatch", "--on", host, chdir, "--", "printf", "%s|", *HARD)
            assert done.stdout == "".join(f"{word}|" for word in HARD), done.stderr
    finally:
        project.inv("stop-dispatcher")


def test_a_shell_command_for_one_host(project: Project) -> None:
    for host in SHELLS:
        done = project.inv("shell", host, "--", "printf", "%s|", *HARD)
        assert done.stdout == "".join(f"{word}|" for word in HARD), done.stderr


@pytest.mark.parametrize("directory", ["/tmp/a b/$(touch x)", "/tmp/`touch x`"])
def test_a_folders_name_is_never_a_command(directory: str, tmp_path: Path) -> None:
    record = {"ssh": ["ssh"], "name": "h", "directory": directory}
    *_, command = link_argv(record, "u", "/v.sock")
    script = f'set -- {command}; printf %s "$5"'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == directory
    assert list(tmp_path.iterdir()) == []
