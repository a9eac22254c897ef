"""``inv collect --watch`` and ``--outputs`` beside tasks that run: what comes when, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.inv import Project, project_for
from tests.support.waiting import wait_until


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path, program: Callable[[str], str]) -> Iterator[Project]:
    program("rsync")
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    made = project_for(rootless_lab, tmp_path / "project", tmp_path / "home")
    environment = {**made.environment, "INVOKE_ROOMFUL_WORKDIR": f"~/watch{os.urandom(4).hex()}"}
    made = Project(made.root, environment)
    for words in (["create-folders", "out"], ["start-server"], ["start-clients"]):
        done = made.inv(*words, *([] if "server" in words[0] else ["--hosts", "lab"]))
        assert done.returncode == 0, done.stderr
    yield made
    made.inv("stop-clients", "--now", "--hosts", "lab")
    made.inv("stop-server", "--forget", "--yes")


def submit(project: Project, *tasks: dict[str, object]) -> None:
    (project.root / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    done = project.inv("submit", "tasks.jsonl")
    assert done.returncode == 0, done.stderr


def started(project: Project, *words: str) -> subprocess.Popen[str]:
    argv = project.argv(["collect", *words, "--hosts", "lab"])
    return subprocess.Popen(
        argv,
        cwd=project.root,
        env=dict(project.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(project: Project) -> set[str]:
    results = project.root / "results"
    return {path.name for path in results.glob("lab*/out/*")}


def test_it_pulls_while_tasks_run_and_ends_with_them(project: Project) -> None:
    gate = project.root / "gate"
    waits = f"while [ ! -e {gate} ]; do sleep 0.1; done"
    submit(
        project,
        {"command": "echo one > out/one; touch -d '1 hour ago' out/one"},
        {"command": f"exec 3> out/half; echo half >&3; touch -d '1 hour ago' out/half; {waits}; echo whole >&3"},
    )
    wait_until(lambda: project.json("status")["done"] == 1, 30)
    with started(project, "--watch") as watching:
        try:
            wait_until(lambda: "one" in names(project), 30)
            assert names(project) == {"one"}
            assert watching.poll() is None
            gate.touch()
            out, err = watching.communicate(timeout=60)
        finally:
            watching.kill()
    assert watching.returncode == 0, out + err
    assert "0 tasks left" in err
    assert "tasks: 2 done, 0 failed, 0 cancelled" in err
    assert [path.read_text() for path in (project.root / "results").glob("lab*/out/half")] == ["half\nwhole\n"]


def test_ctrl_c_ends_it_and_leaves_whole_files(project: Project) -> None:
    submit(project, {"command": "echo one > out/one; sleep 600"})
    with started(project, "--watch") as watching:
        try:
            wait_until(lambda: "one" in names(project), 60)
            watching.send_signal(signal.SIGINT)
            out, err = watching.communicate(timeout=20)
        finally:
            watching.kill()
    assert watching.returncode == 130, out + err
    assert "Traceback" not in err
    assert not list((project.root / "results").glob("**/.roomful*"))


def test_outputs_brings_what_tasks_declared_and_names_what_is_missing(project: Project) -> None:
    submit(
        project,
        {"command": "echo a > out/a; echo b > out/b", "outputs": ["out/a"]},
        {"command": "mkdir -p sub/d; echo c > sub/d/c", "outputs": ["sub"]},
        {"command": "echo d > d", "cwd": "out", "outputs": ["d", "never"]},
        {"command": "echo e > out/e; exit 3", "outputs": ["out/e"]},
        {"command": "true", "cwd": "/tmp", "outputs": ["elsewhere"]},
    )
    document = json.loads(started(project, "--outputs", "--watch", "--json").communicate(timeout=90)[0])
    failed = [host for host in document["hosts"] if host["status"] != "ok"]
    assert [(host["reason"], host["detail"]) for host in failed] == [("missing-output", "'out/never' of task 3")]
    results = project.root / "results"
    brought = {
        str(path.relative_to(results)).split("/", 1)[1] for path in results.glob("lab*/**/*") if path.is_file()
    }
    assert brought == {"out/a", "sub/d/c", "out/d"}
    done = project.inv("collect", "--outputs", "--hosts", "lab")
    assert done.returncode == 1
    assert "not in the workdir, so left there: '/tmp/elsewhere' of task 5" in done.stderr


def test_what_makes_no_sense_is_refused(rootless_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    made = project_for(rootless_lab, tmp_path / "project", tmp_path / "home")
    for words, says in ((["--watch"], "--watch needs a task queue"), (["--outputs", "x"], "--outputs goes without")):
        done = made.inv("collect", *words, "--hosts", "lab")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert says in done.stderr
