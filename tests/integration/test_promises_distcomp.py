"""DistComp's documented session, line by line, with our tasks: task file, workers, a look at both, restart, retry.

What it calls master, manager and worker are our server, controller and clients; nothing has to be installed there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

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


def test_the_documented_session_works_line_by_line(project: Project) -> None:
    work = project.root / "work"
    (work / "hold").touch()
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
    assert project.json("submit", "task", "--allow-waiting")["added"] == 3
    assert project.json("submit", "task", "--allow-waiting")["duplicates"] == 3
    tasks = {task["command"]: task for task in project.json("tasks")["tasks"]}
    first = tasks["./cachesim PARAM1 PARAM2"]
    assert (first["priority"], first["memory_bytes"], first["cpus"]) == (4, 2 * 2**30, 2)
    # 3. parallel-ssh -h host -i -t 0 '... screen ... python3 redisWorker.py'
    ok(project, "start-clients", "--hosts", "lab01")
    # 4. redisManager.py --task checkTask ...
    wait_until(lambda: states(project)["./cachesim long 1"] == "running", 30, lambda: str(states(project)))
    #    redisManager.py --task checkWorker; watch "... --task 'checkTask&checkWorker'"
    looked = project.json("status")
    assert [client["host"] for client in looked["clients"]] == ["lab01"]
    assert "lab01" in ok(project, "status")
    # A restarted worker gets its task again; the others take what waits.
    ok(project, "start-clients", "--hosts", "lab01", "--restart")
    ok(project, "start-clients", "--hosts", "lab")
    wait_until(lambda: states(project)["./cachesim missing 1"] == "failed", 30, lambda: str(states(project)))
    wait_until(lambda: states(project)["./cachesim PARAM1 PARAM2"] == "done", 30, lambda: str(states(project)))
    wait_until(lambda: states(project)["./cachesim long 1"] == "running", 30, lambda: str(states(project)))
    (long,) = (task for task in project.json("tasks")["tasks"] if task["command"] == "./cachesim long 1")
    assert [(entry["host"], entry["reason"]) for entry in long["tries"]] == [("lab01", "stopped")]
    (work / "hold").unlink()
    # "The failed tasks can be moved to the todo queue."
    (failed,) = project.json("tasks", "--state", "failed")["tasks"]
    assert (failed["command"], failed["reason"]) == ("./cachesim missing 1", "exit 3")
    (work / "trace").touch()
    ok(project, "retry", "--failed")
    wait_until(lambda: set(states(project).values()) == {"done"}, 30, lambda: str(states(project)))
    said = project.inv("logs", "all").stdout
    assert "cachesim PARAM1 PARAM2 on lab0" in said
    assert "cachesim missing 1 on lab0" in said
