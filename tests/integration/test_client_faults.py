"""Clients that are machines of their own: their network cut, their power gone, and a server that is one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.queue import TaskSpec
from roomful.server import Server, open_queue
from roomful.settings import Settings
from roomful.state import ProjectState
from tests.support.lab import LabFactory, settings_for, ssh
from tests.support.server import clean_up, processes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]


class Project:
    """A project whose tasks are called as a user would: inv enters the lab's network, this process must not."""

    def __init__(self, room: Lab, root: Path, **changes: Any) -> None:
        self.room = room
        self.settings: Settings = settings_for(room, root, **changes)
        self._changes = changes
        (root / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")

    def inv(self, *words: str, code: int = 0) -> str:
        """Call inv and return its stdout; fails if the exit code is another one."""
        changes = {f"INVOKE_ROOMFUL_{name.upper()}": str(value) for name, value in self._changes.items()}
        argv = [sys.executable, "-m", "invoke", *words]
        done = subprocess.run(
            argv,
            cwd=self.settings.root,
            env=os.environ | changes,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.inv("server-status", "--json"))
        return document

    def wait_for_link(self, host: str, state: str, deadline: float = 80) -> None:
        wait_until(
            lambda: self.status()["links"][host]["state"] == state, deadline, lambda: str(self.status()["links"])
        )

    def traces(self, host: str) -> str:
        """What of ours is on a host: processes and folders."""
        name = ProjectState(self.settings).cluster_name
        folders = f"ls -d /tmp/roomful-*/{name} /var/tmp/roomful-*/{name} 2>/dev/null"
        processes = f"ps -eo args | grep -F {name} | grep -v -e grep -e sshd"
        return ssh(self.room, host, f"{folders}; {processes}").stdout.strip()


@pytest.fixture
def room(lab: LabFactory) -> Iterator[Lab]:
    """Three hosts that tests may break; they are mended afterwards."""
    room = lab(own="client faults", count=3, rootless=False)
    yield room
    for host in room.hosts:
        labs.heal(room.name, host.name)


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Iterator[Project]:
    """A running server here; afterwards no agent is left on any host."""
    made = Project(room, tmp_path, server_directory=str(tmp_path / "server"))
    made.inv("start-server")
    try:
        yield made
        for host in room.hosts:
            labs.heal(room.name, host.name)
        made.inv("stop-clients", "--hosts", "lab", "--now", "--forget")
        assert {host.name: made.traces(host.name) for host in room.hosts} == {host.name: "" for host in room.hosts}
    finally:
        clean_up(made.settings)


def test_a_cut_client_keeps_its_task_and_reports_when_it_is_back(project: Project) -> None:
    """Shorter than the lease: nobody else gets the task, the link comes back by itself, the result counts."""
    project.inv("start-clients", "--hosts", "lab01", "--slots", "1")
    project.wait_for_link("lab01", "up")
    with open_queue(project.settings) as queue:
        report = queue.submit([TaskSpec(command="sleep 16; echo whole")])
        wait_until(lambda: queue.counts().running == 1, 15, lambda: str(queue.counts()))
        labs.fail(project.room.name, "lab01", "cut")
        cut = time.monotonic()
        # Long after a live host's agent would have been given up: the keeper knows that the host does not answer.
        while time.monotonic() - cut < 14:
            assert queue.counts().running == 1
            time.sleep(0.5)
        labs.heal(project.room.name, "lab01")
        assert queue.wait(report.ids, timeout=60), str(queue.counts())
        (task,) = queue.tasks(ids=report.ids)
        assert (task.state, task.attempt) == ("done", 1)
        assert queue.output(task.id).head == b"whole\n"


def test_the_task_of_a_host_without_power_goes_to_another_one(project: Project) -> None:
    project.inv("start-clients", "--hosts", "lab01,lab02", "--slots", "1")
    with open_queue(project.settings) as queue:
        report = queue.submit([TaskSpec(command="echo $ROOMFUL_HOST; sleep 5")])
        (task,) = wait_until(lambda: list(queue.tasks("running")), 15, lambda: str(queue.counts()))
        labs.fail(project.room.name, task.host, "poweroff")
        assert queue.wait(report.ids, timeout=50), str(queue.counts())
        (again,) = queue.tasks(ids=report.ids)
        assert again.state == "done"
        assert again.attempt == 2
        assert again.host != task.host


def test_a_host_that_was_rebooted_is_taken_up_by_start_clients(project: Project) -> None:
    project.inv("start-clients", "--hosts", "lab01")
    labs.fail(project.room.name, "lab01", "poweroff")
    project.wait_for_link("lab01", "down")
    labs.heal(project.room.name, "lab01")
    (row,) = json.loads(project.inv("start-clients", "--hosts", "lab01", "--json"))["hosts"]
    assert row["agent"] == "started"
    assert row["name"] == "lab01#2"
    project.wait_for_link("lab01", "up")


def test_a_client_that_is_off_is_named_and_the_others_are_stopped(project: Project) -> None:
    project.inv("start-clients", "--hosts", "lab")
    traces = project.traces("lab01")
    assert "/tmp/roomful-" in traces
    assert "roomful-link" in traces
    assert ".pyz client" in traces
    labs.fail(project.room.name, "lab03", "poweroff")
    document = json.loads(project.inv("stop-clients", "--hosts", "lab", "--json", code=1))
    assert [(row["host"], row["status"]) for row in document["hosts"]] == [
        ("lab01", "ok"),
        ("lab02", "ok"),
        ("lab03", "unreachable"),
    ]
    assert project.status()["links"] == {}
    assert project.traces("lab01") == project.traces("lab02") == ""


def test_a_talkative_bashrc_does_not_matter(project: Project) -> None:
    ssh(project.room, "lab01", "echo 'echo welcome; echo {}' > .bashrc")
    try:
        assert "welcome" in ssh(project.room, "lab01", "true").stdout
        project.inv("start-clients", "--hosts", "lab01")
        project.wait_for_link("lab01", "up")
        project.inv("stop-clients", "--hosts", "lab01")
    finally:
        ssh(project.room, "lab01", "rm .bashrc")


def test_hosts_with_one_home_do_not_get_into_each_others_way(lab: LabFactory, tmp_path: Path) -> None:
    room = lab(count=2, rootless=False, shared_home=True)
    project = Project(room, tmp_path, server_directory=str(tmp_path / "server"))
    try:
        project.inv("start-server")
        project.inv("start-clients", "--hosts", "lab", "--slots", "1")
        with open_queue(project.settings) as queue:
            report = queue.submit([TaskSpec(command=f"hostname; sleep 1; : {number}") for number in range(4)])
            assert queue.wait(report.ids, timeout=30)
            assert {queue.output(number).head for number in report.ids} == {b"lab01\n", b"lab02\n"}
        project.inv("stop-clients", "--hosts", "lab")
        assert project.traces("lab01") == project.traces("lab02") == ""
    finally:
        clean_up(project.settings)


def test_a_server_on_a_host_does_all_that_one_here_does(room: Lab, tmp_path: Path) -> None:
    """lab01 serves, and reaches the others with a key of its account there; this machine only asks."""
    project = Project(room, tmp_path)
    put_key = "umask 077; mkdir -p ~/.ssh && cat > ~/.ssh/id_ed25519"
    key = room.identity_file.read_bytes()
    argv = ["nsenter", f"--net=/run/netns/{room.netns}", "--", "ssh", "-F", str(room.ssh_config), "lab01", put_key]
    subprocess.run(argv, input=key, check=True, timeout=30)
    try:
        project.inv("start-server", "--on", "lab01")
        status = project.status()
        assert status["on"] == "lab01"
        assert status["directory"].startswith("/var/tmp/roomful-")
        project.inv("start-clients", "--hosts", "lab02,lab03", "--slots", "1")
        with open_queue(project.settings) as queue:
            report = queue.submit([TaskSpec(command=f"hostname; sleep 1; : {number}") for number in range(4)])
            assert queue.wait(report.ids, timeout=30), str(queue.counts())
            assert {queue.output(number).head for number in report.ids} == {b"lab02\n", b"lab03\n"}
        assert "already runs" not in project.inv("start-server")
        project.inv("stop-clients", "--hosts", "lab02,lab03")
        project.inv("stop-server")
        assert json.loads(project.inv("server-status", "--json", code=1))["running"] is False
        project.inv("start-server")
        assert project.status()["tasks"]["done"] == 4
        # No tunnel outlives the command that needed it.
        assert not [line for line in processes_of(tmp_path).values() if "ssh" in line]
    finally:
        project.inv("stop-server", "--forget", "--yes")
        ssh(room, "lab01", "rm -r ~/.ssh/id_ed25519")
    assert {host.name: project.traces(host.name) for host in room.hosts} == {host.name: "" for host in room.hosts}
    assert Server.of(project.settings).host is None


def test_an_agent_whose_every_process_was_killed_is_started_again_and_ends_what_was_left(project: Project) -> None:
    """Nobody on the host is left to notice; the keeper, whose link stays up, is who does."""
    project.inv("start-clients", "--hosts", "lab01", "--slots", "1")
    project.wait_for_link("lab01", "up")
    with open_queue(project.settings) as queue:
        (before,) = queue.clients()
        report = queue.submit([TaskSpec(command='echo "left $$" >> ~/left; setsid sleep 987 & sleep 987 & wait')])
        wait_until(lambda: ssh(project.room, "lab01", "cat ~/left").stdout, 15, lambda: str(queue.counts()))
        killed = time.monotonic()
        agent = "roomful-[ag]"
        ssh(project.room, "lab01", f"pkill -STOP '^{agent}'; pkill -KILL '^{agent}'")
        assert ssh(project.room, "lab01", "pgrep -c sleep").stdout.strip() == "2"
        wait_until(
            lambda: any(one.state == "live" and one.agent != before.agent for one in queue.clients()),
            25,
            lambda: str(queue.clients()),
        )
        (task,) = wait_until(lambda: [t for t in queue.tasks(ids=report.ids) if t.attempt == 2], 15)
        assert task.state == "running"
        assert ssh(project.room, "lab01", "pgrep -c sleep").stdout.strip() == "2", "those of the new attempt alone"
        assert time.monotonic() - killed < 25
        queue.cancel(report.ids)


def test_settings_of_the_project_reach_agents(project: Project) -> None:
    directory = project.settings.server_directory
    changes = {"server_directory": directory, "heartbeat_seconds": 0.5, "cut_off_grace_seconds": 77.0}
    tuned = Project(project.room, project.settings.root, **changes)
    polite = ("--nice", "3", "--max-load", "90", "--while-idle", "off")
    tuned.inv("start-clients", "--hosts", "lab01", *polite)
    with open_queue(project.settings) as queue:
        assert queue.settings() == {"max_load@lab01": "90", "nice@lab01": "3", "while_idle@lab01": "0"}
        # It has begun before it is made nice.
        report = queue.submit([TaskSpec(command="sleep 0.2; nice")])
        assert queue.wait(report.ids, timeout=20)
        assert queue.output(report.ids[0]).head == b"3\n"
        silences = []
        for _ in range(40):
            silences.append(queue.clients()[0].seconds_since_heartbeat)
            time.sleep(0.05)
        assert max(silences) < 1.5, "the default is 2 s"
    config = ssh(project.room, "lab01", "find /tmp/roomful-* -name agent.json -exec cat {} +").stdout
    assert json.loads(config)["cut_off_grace_seconds"] == 77.0
