"""DistComp's documented session, line by line, with our tasks: task file, workers, a look at both, restart, retry.

What it calls master, manager and worker are our server, controller and clients; nothing has to be installed there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roomful.lab import Lab
from tests.support.inv import Project, project_for
from tests.support.lab import settings_for
from tests.support.server import clean_up
from tests.support.waiting import wait_until

#: Fails for one parameter until there is a file, and stays with another one as long as there is one.
CACHESIM = """\
#!/bin/sh
echo "cachesim $1 $2 on $ROOMFUL_HOST"
[ "$1" != missing ] || [ -e trace ] || exit 3
while [ "$1" = long ] && [ -e hold ]; do sleep 0.05; done
"""


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Iterator[Project]:
    """A project with three hosts that all see one workdir, and no server yet."""
    (work := tmp_path / "work").mkdir()
    (work / "cachesim").write_text(CACHESIM)
    (work / "cachesim").chmod(0o755)
    settings = settings_for(rootless_lab, tmp_path, server_directory=str(tmp_path / "server"))
    names = ("ssh_config", "known_hosts", "server_directory", "command_timeout_seconds")
    values = {name: getattr(settings, name) for name in names}
    made = project_for(rootless_lab, tmp_path, tmp_path, workdir=str(work), **values)
    yield made
    try:
        done = made.inv("stop-clients", "--hosts", "lab", "--now", "--forget")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        clean_up(settings)


def ok(project: Project, *words: str, code: int = 0) -> str:
    done = project.inv(*words)
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def states(project: Project) -> dict[str, str]:
    """Each task's state, by its command."""
    return {task["command"]: task["state"] for task in project.json("tasks")["tasks"]}


def task_of(project: Project, command: str, attempt: int) -> dict[str, Any] | None:
    """Return a task once it has come to this attempt."""
    tasks = project.json("tasks")["tasks"]
    return next((task for task in tasks if (task["command"], task["attempt"]) == (command, attempt)), None)


def test_the_documented_session_works_line_by_line(project: Project) -> None:
    work = project.root / "work"
    (work / "hold").touch()
    (work / "report.py").write_text("import os, sys; print(sys.argv[1:], 'in', os.getcwd())\n")
    # 1. bash ./redis.sh
    ok(project, "start-server")
    # 2. echo 'shell:4:2:2:./cachesim PARAM1 PARAM2' >> task
    for line in (
        "shell:4:2:2:./cachesim PARAM1 PARAM2",
        "shell:9:1:1:./cachesim long 1",
        "shell:1:1:1:./cachesim missing 1",
    ):
        subprocess.run(["sh", "-c", f"echo '{line}' >> task"], cwd=project.root, check=True)
    #    python3 redisManager.py --task 'initRedis&loadTask' --taskfile task
    assert ok(project, "reset", "--yes") == "0 tasks removed\n"
    assert project.json("submit", "task", "--allow-waiting")["added"] == 3
    assert project.json("submit", "task", "--allow-waiting")["duplicates"] == 3
    tasks = {task["command"]: task for task in project.json("tasks")["tasks"]}
    first = tasks["./cachesim PARAM1 PARAM2"]
    assert (first["kind"], first["priority"]) == ("shell", 4)
    assert (first["memory_bytes"], first["cpus"]) == (2 * 2**30, 2)
    assert ok(project, "status").startswith("3 tasks: 3 todo, 0 running, 0 done, 0 failed\n")
    # 3. parallel-ssh -h host -i -t 0 '... screen ... python3 redisWorker.py'
    ok(project, "start-clients", "--hosts", "lab01")
    # 4. redisManager.py --task checkTask --finished false --todo false --in_progress false --failed false
    wait_until(lambda: states(project)["./cachesim long 1"] == "running", 30, lambda: str(states(project)))
    looked = project.json("status")
    assert (looked["running"] >= 1, looked["total"]) == (True, 3)
    (running,) = project.json("tasks", "--state", "running", "--match", "long")["tasks"]
    assert (running["host"], running["attempt"]) == ("lab01", 1)
    #    redisManager.py --task checkWorker; watch "... --task 'checkTask&checkWorker'"
    assert [(client["host"], client["state"]) for client in looked["clients"]] == [("lab01", "live")]
    assert ok(project, "status").splitlines()[-1].split()[:2] == ["lab01", "live"]
    # "New tasks can be submitted at any time", "both bash jobs and Python jobs".
    subprocess.run(["sh", "-c", "echo 'python:0:0:1:report.py 1 \"2 3\"' >> more"], cwd=project.root, check=True)
    assert project.json("submit", "more")["added"] == 1
    assert project.json("submit", "more")["duplicates"] == 1
    # "Restarted workers can fetch its previous tasks to continue": the same task to the same one, with nothing lost.
    assert "restarted" in ok(project, "start-clients", "--hosts", "lab01", "--restart")
    again = wait_until(lambda: task_of(project, "./cachesim long 1", attempt=2), 30, lambda: str(states(project)))
    assert (again["state"], again["host"]) == ("running", "lab01")
    assert [(entry["host"], entry["reason"]) for entry in again["tries"]] == [("lab01", "stopped")]
    # All hosts of the list; the others take what waits.
    ok(project, "start-clients", "--hosts", "lab")
    hosts = [(client["host"], client["state"]) for client in project.json("status")["clients"]]
    assert hosts == [("lab01", "live"), ("lab02", "live"), ("lab03", "live")]
    wait_until(lambda: states(project)["./cachesim missing 1"] == "failed", 30, lambda: str(states(project)))
    wait_until(lambda: states(project)["./cachesim PARAM1 PARAM2"] == "done", 30, lambda: str(states(project)))
    wait_until(lambda: states(project)['report.py 1 "2 3"'] == "done", 30, lambda: str(states(project)))
    assert states(project)["./cachesim long 1"] == "running"
    (work / "hold").unlink()
    # "The failed tasks can be moved to the todo queue."
    (failed,) = project.json("tasks", "--state", "failed")["tasks"]
    assert (failed["command"], failed["reason"]) == ("./cachesim missing 1", "exit 3")
    (work / "trace").touch()
    assert ok(project, "retry", "--failed") == "1 task again in the queue\n"
    wait_until(lambda: set(states(project).values()) == {"done"}, 30, lambda: str(states(project)))
    moved = task_of(project, "./cachesim missing 1", attempt=2)
    assert moved
    assert [entry["reason"] for entry in moved["tries"]] == ["exit 3"]
    said = project.inv("logs", "all").stdout
    assert "cachesim PARAM1 PARAM2 on lab0" in said
    assert "cachesim missing 1 on lab0" in said
    assert f"['1', '2 3'] in {work}\n" in said
