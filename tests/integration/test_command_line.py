"""What surrounds every task: where its output goes, what the environment says, what is asked for first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.inv import Project, project_for
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Project:
    return project_for(rootless_lab, tmp_path / "project", tmp_path / "home")


def into(project: Project, stdout: int, *words: str, **environment: str) -> tuple[int, str]:
    """Run ``inv WORDS`` with this as stdout; returns the exit code and stderr."""
    done = subprocess.run(
        project.argv(words),
        cwd=project.root,
        env={**project.environment, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


CALLS = [
    ["--list"],
    ["--help", "deploy"],
    ["filter"],
    ["hosts", "lab"],
    ["run", "--", "echo x"],
    ["run", "--gather", "--", "echo x"],
    ["run", "--json", "--", "echo x"],
]


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_stdout_is_said_in_one_line_and_no_host_is_blamed(
    project: Project, words: list[str], unbuffered: str
) -> None:
    with open("/dev/full", "wb") as full:
        code, said = into(project, full.fileno(), *words, PYTHONUNBUFFERED=unbuffered)
    name = "inv" if words[0].startswith("-") else f"inv {words[0]}"
    own = [line for line in said.splitlines() if not line.startswith(("3 hosts: 3 ok", "again on these"))]
    assert (code, own) == (1, [f"{name}: cannot write the output: No space left on device"])


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_is_no_failure_of_anybody(project: Project, words: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, said = into(project, writer, *words, PYTHONUNBUFFERED=unbuffered)
    finally:
        os.close(writer)
    assert (code, said.replace("3 hosts: 3 ok, 0 failed, 0 unreachable\n", "")) == (141, "")


@pytest.mark.parametrize("word", ["false", "no"])
def test_new_host_keys_are_not_accepted_where_the_environment_says_no(
    project: Project, rootless_lab: Lab, tmp_path: Path, word: str
) -> None:
    known, config = tmp_path / "known", tmp_path / "config"
    known.touch()
    config.write_text(rootless_lab.ssh_config.read_text().replace(str(rootless_lab.known_hosts), str(known)))
    assert str(known) in config.read_text()
    (project.root / "host_lists" / "new.txt").write_text(f"lab01 ssh_config={config}\n")
    refuse = {"INVOKE_ROOMFUL_ACCEPT_NEW_HOST_KEYS": word}
    refused = Project(project.root, {**project.environment, **refuse}).inv("filter", "--hosts", "new")
    assert refused.returncode == 1
    assert "host-key" in refused.stdout
    assert known.read_text() == ""
    accept = {**refuse, "INVOKE_ROOMFUL_ACCEPT_NEW_HOST_KEYS": "yes"}
    accepted = Project(project.root, {**project.environment, **accept}).inv("filter", "--hosts", "new")
    assert accepted.returncode == 0, accepted.stderr
    assert known.read_text() != ""


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PARALLEL", "x", "inv filter: roomful.parallel: bad value 'x'; write a number\n"),
        ("CONNECT_TIMEOUT_SECONDS", "soon", "inv filter: roomful.connect_timeout_seconds: bad value 'soon'"),
        ("ACCEPT_NEW_HOST_KEYS", "perhaps", "bad value 'perhaps'; write true or false\n"),
    ],
)
def test_a_bad_value_in_the_environment_is_named(project: Project, name: str, value: str, says: str) -> None:
    done = Project(project.root, {**project.environment, f"INVOKE_ROOMFUL_{name}": value}).inv("filter")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_flag_that_stands_behind_another_task_is_explained(rootless_lab: Lab, tmp_path: Path) -> None:
    project = project_for(rootless_lab, tmp_path / "project", tmp_path / "home", hosts="")
    done = project.inv("stop-clients", "clean", "--hosts", "lab")
    says = "a flag belongs to the task before it: inv stop-clients --hosts NAME ..., and so on"
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"inv stop-clients: no hosts given for this task; {says}\n",
    )


@pytest.mark.parametrize("seconds", ["-3", "nan", "inf"])
def test_an_idle_time_that_makes_no_sense_starts_no_dispatcher(project: Project, seconds: str) -> None:
    done = project.inv("start-dispatcher", "--idle", seconds)
    if done.returncode != 2:
        project.inv("stop-dispatcher")
    says = f"inv start-dispatcher: --idle: bad time {seconds}; write seconds above 0\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)
    assert not (project.root / ".roomful").exists()


def test_ctrl_c_before_a_task_begins_is_said_as_within_one(project: Project) -> None:
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    (project.root / "tasks.py").write_text(f"from fabfile import ns\n{code}")
    done = project.inv("hosts", "lab")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "inv: interrupted\n")


def test_ctrl_c_within_a_task_is_the_tasks_own_and_after_it_again_is_not(project: Project) -> None:
    (project.root / "tasks.py").write_text(
        "import os, signal, time\nfrom fabfile import ns\nfrom fabfile._step import step\n\n"
        "@step()\ndef waits(c):\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(5)\n"
        "    finally:\n        print('cleaned up')\n\n"
        "@step()\ndef ends(c):\n    print('said')\n    import atexit\n"
        "    atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(5)))\n\n"
        "ns.add_task(waits)\nns.add_task(ends)\n"
    )
    within = project.inv("waits")
    assert (within.returncode, within.stdout, within.stderr) == (130, "cleaned up\n", "inv waits: interrupted\n")
    after = project.inv("ends")
    assert (after.returncode, after.stdout, after.stderr) == (130, "said\n", "inv: interrupted\n")


def test_a_task_file_that_is_not_there_is_named_before_the_server_is_asked_for(project: Project) -> None:
    done = project.inv("submit", "tasks.txt")
    says = "inv submit: tasks.txt: cannot read the task file: No such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


def test_excluding_nobody_is_said(project: Project) -> None:
    for excluded, said in (("elsewhere", True), ("lab01,elsewhere", False)):
        done = project.inv("run", "--hosts", "lab", f"--exclude={excluded}", "--", "true")
        assert done.returncode == 0
        assert (f"note: --exclude={excluded} leaves out none of these hosts\n" in done.stderr) == said
