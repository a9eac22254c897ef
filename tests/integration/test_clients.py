"""Agents on real hosts: started once, known to the queue, linked again after faults, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.client_links import run_directory
from roomful.clients import drain_clients, start_clients, stop_clients
from roomful.hosts import Host, resolve
from roomful.lab import Lab
from roomful.queue import TaskSpec
from roomful.server import Server, open_queue
from roomful.settings import Settings
from roomful.state import ProjectState
from tests.support.lab import settings_for
from tests.support.server import clean_up, processes_of
from tests.support.waiting import wait_until


class Cluster:
    """A project with a running server and the hosts of a lab."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hosts = resolve("lab", settings)

    @property
    def server(self) -> Server:
        return Server.of(self.settings)

    @property
    def folder(self) -> Path:
        """What holds all clients' folders: in a rootless lab they share this machine's /tmp."""
        return Path(f"/tmp/roomful-{os.getuid()}") / ProjectState(self.settings).cluster_name

    def home(self, host: Host) -> Path:
        return Path(run_directory(host, self.settings).replace("{uid}", str(os.getuid())))

    def links(self) -> dict[str, str]:
        return {label: str(link["state"]) for label, link in self.server.status().links.items()}

    def wait_for_links(self) -> None:
        wait_until(lambda: set(self.links().values()) == {"up"}, 20, lambda: str(self.server.status().links))

    def live(self) -> dict[str, str]:
        """Agents that are heard, by host."""
        with open_queue(self.settings) as queue:
            return {client.host: client.agent for client in queue.clients() if client.state == "live"}

    def run(self, *commands: str, timeout: float = 30.0) -> list[str]:
        """Submit commands, wait, and return what they wrote."""
        with open_queue(self.settings) as queue:
            report = queue.submit([TaskSpec(command=command) for command in commands], allow_duplicates=True)
            assert queue.wait(report.ids, timeout=timeout), str(queue.counts())
            return [queue.output(number).head.decode() for number in report.ids]


@pytest.fixture
def cluster(rootless_lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    """A running server and three hosts without agents; afterwards nothing of it is left anywhere."""
    settings = settings_for(
        rootless_lab, tmp_path, server_directory=str(tmp_path / "server"), workdir=str(tmp_path / "work")
    )
    room = Cluster(settings)
    room.server.start()
    try:
        yield room
        stop_clients(room.hosts, settings, now=True, forget=True)
        assert not processes_of(room.folder)
        assert not room.folder.exists()
    finally:
        clean_up(settings)
        for pid in processes_of(room.folder):
            os.kill(pid, signal.SIGKILL)


def test_agents_run_tasks_and_a_second_start_changes_nothing(cluster: Cluster) -> None:
    outcomes = start_clients(cluster.hosts, cluster.settings, slots=2)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    first = [outcome.value for outcome in outcomes]
    assert [(agent.state, agent.slots) for agent in first if agent] == [("started", 2)] * 3
    again = [outcome.value for outcome in start_clients(cluster.hosts, cluster.settings, slots=2)]
    assert [(agent.state, agent.changed, agent.outdated) for agent in again if agent] == [
        ("running", False, False)
    ] * 3
    assert [agent.name for agent in again if agent] == [agent.name for agent in first if agent]
    assert sorted(cluster.run("echo $ROOMFUL_HOST; sleep 0.3", "echo $ROOMFUL_HOST; sleep 0.3"))


def test_a_restart_replaces_the_agent_and_only_when_asked(cluster: Cluster) -> None:
    before = [outcome.value for outcome in start_clients(cluster.hosts[:1], cluster.settings, slots=1)]
    kept = [outcome.value for outcome in start_clients(cluster.hosts[:1], cluster.settings, slots=3)]
    assert [(agent.state, agent.changed, agent.slots) for agent in kept if agent] == [("running", True, 1)]
    after = [outcome.value for outcome in start_clients(cluster.hosts[:1], cluster.settings, slots=3, restart=True)]
    assert [(agent.state, agent.changed, agent.slots) for agent in after if agent] == [("restarted", False, 3)]
    assert before[0]
    assert after[0]
    assert before[0].pid != after[0].pid


def test_an_agent_of_another_version_is_told_apart(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    start_clients([host], cluster.settings)
    path = cluster.home(host) / "started.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "zipapp": "roomful-0000000000000000.pyz"}))
    (outcome,) = start_clients([host], cluster.settings)
    assert outcome.value
    assert outcome.value.outdated
    (outcome,) = start_clients([host], cluster.settings, restart=True)
    assert outcome.value
    assert not outcome.value.outdated


def test_what_lies_on_a_client_is_private(cluster: Cluster) -> None:
    start_clients(cluster.hosts[:1], cluster.settings)
    home = cluster.home(cluster.hosts[0])
    for path in [home.parent.parent, home.parent, home]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in home.iterdir():
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    passwords = json.loads((Path(cluster.settings.server_directory) / "passwords.json").read_text())
    for pid in [*processes_of(home), *processes_of(Path(cluster.settings.server_directory))]:
        for name in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not any(password.encode() in text for password in passwords.values())


def test_stopping_gives_the_tasks_back_and_leaves_nothing(cluster: Cluster) -> None:
    start_clients(cluster.hosts, cluster.settings, slots=1)
    with open_queue(cluster.settings) as queue:
        queue.submit([TaskSpec(command=f"sleep 1000.{number}") for number in range(3)])
        wait_until(lambda: queue.counts().running == 3, 15, lambda: str(queue.counts()))
        outcomes = stop_clients(cluster.hosts, cluster.settings)
        assert [outcome.value.state for outcome in outcomes if outcome.value] == ["stopped"] * 3
        counts = queue.counts()
        assert (counts.todo, counts.running, counts.failed) == (3, 0, 0)
    assert not processes_of(cluster.folder)
    assert not cluster.folder.exists()
    assert cluster.links() == {}
    assert not [line for line in processes_of(Path("/")).values() if "sleep 1000." in line]


def test_stopping_where_nothing_runs_is_no_error(cluster: Cluster) -> None:
    outcomes = stop_clients(cluster.hosts, cluster.settings)
    assert [outcome.value.state for outcome in outcomes if outcome.value] == ["absent"] * 3


def test_now_kills_what_does_not_want_to_end(cluster: Cluster) -> None:
    start_clients(cluster.hosts[:1], cluster.settings)
    with open_queue(cluster.settings) as queue:
        queue.submit([TaskSpec(command="trap '' TERM; setsid sleep 2000.5 & sleep 2000.5")])
        wait_until(lambda: queue.counts().running == 1, 15, lambda: str(queue.counts()))
        (outcome,) = stop_clients(cluster.hosts[:1], cluster.settings, now=True)
        assert outcome.status == "ok"
        assert outcome.seconds < 10
        assert queue.counts().todo == 1
        assert [client.state for client in queue.clients()] == ["stopped"]
    wait_until(lambda: not [line for line in processes_of(Path("/")).values() if "sleep 2000.5" in line], 5)


def test_drain_waits_for_the_tasks_that_run(cluster: Cluster) -> None:
    start_clients(cluster.hosts[:1], cluster.settings, slots=1)
    with open_queue(cluster.settings) as queue:
        report = queue.submit([TaskSpec(command="sleep 1.5; echo whole"), TaskSpec(command="echo later")])
        wait_until(lambda: queue.counts().running == 1, 15, lambda: str(queue.counts()))
        drain_clients(cluster.hosts[:1], cluster.settings)
        stop_clients(cluster.hosts[:1], cluster.settings, drained=True)
        assert queue.output(report.ids[0]).head == b"whole\n"
        assert queue.counts().todo == 1
    # The host is not kept from work for ever.
    start_clients(cluster.hosts[:1], cluster.settings)
    with open_queue(cluster.settings) as queue:
        assert queue.wait(report.ids, timeout=20)


def test_an_agent_that_cannot_register_is_named_with_its_log(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomful.clients.REGISTER_SECONDS", 3.0)
    # A keeper that is not there: no link, so the agent speaks to nobody.
    monkeypatch.setattr(Server, "change_clients", lambda self, add=None, remove=(): ())
    (outcome,) = start_clients(cluster.hosts[:1], cluster.settings)
    assert outcome.reason == "not-registered"
    assert "its link is unknown" in outcome.detail
    assert outcome.value
    assert outcome.value.log


def test_a_host_that_lets_nobody_in_costs_only_itself(cluster: Cluster) -> None:
    closed = Host("127.0.0.1", port=1)
    outcomes = start_clients([closed, *cluster.hosts], cluster.settings)
    assert [outcome.status for outcome in outcomes] == ["unreachable", "ok", "ok", "ok"]
    assert outcomes[0].reason == "refused"


def test_agents_of_a_queue_that_was_forgotten_are_taken_over(cluster: Cluster) -> None:
    """New data have new passwords: an agent with the old one would wait for ever."""
    start_clients(cluster.hosts, cluster.settings)
    cluster.server.stop(forget=True)
    cluster.server.start()
    outcomes = start_clients(cluster.hosts, cluster.settings)
    assert [outcome.value.state for outcome in outcomes if outcome.value] == ["restarted"] * 3
    assert cluster.run("echo again") == ["again\n"]


def test_the_keeper_killed_returns_with_all_links_and_no_task_notices(cluster: Cluster) -> None:
    start_clients(cluster.hosts, cluster.settings, slots=1)
    cluster.wait_for_links()
    keeper = cluster.server.status().pids["keeper"]
    assert keeper
    with open_queue(cluster.settings) as queue:
        report = queue.submit([TaskSpec(command=f"sleep 4; echo {number}") for number in range(3)])
        wait_until(lambda: queue.counts().running == 3, 15, lambda: str(queue.counts()))
        os.kill(keeper, signal.SIGKILL)
        # Its links went with it: OpenSSH does not outlive the keeper.
        wait_until(lambda: cluster.server.status().pids["keeper"] not in (None, keeper), 10)
        cluster.wait_for_links()
        assert queue.wait(report.ids, timeout=30)
        assert [(task.state, task.attempt) for task in queue.tasks(ids=report.ids)] == [("done", 1)] * 3
    for host in cluster.hosts:
        assert len(list(cluster.home(host).glob("link-*.sock"))) == 1


def test_a_server_restart_kills_no_task(cluster: Cluster) -> None:
    start_clients(cluster.hosts, cluster.settings, slots=1)
    with open_queue(cluster.settings) as queue:
        report = queue.submit([TaskSpec(command=f"sleep 5; echo $$ {number}") for number in range(3)])
        wait_until(lambda: queue.counts().running == 3, 15, lambda: str(queue.counts()))
    cluster.server.stop()
    cluster.server.start()
    with open_queue(cluster.settings) as queue:
        assert queue.wait(report.ids, timeout=40), str(queue.counts())
        assert [(task.state, task.attempt) for task in queue.tasks(ids=report.ids)] == [("done", 1)] * 3


def test_valkey_killed_while_tasks_run_loses_none(cluster: Cluster) -> None:
    start_clients(cluster.hosts, cluster.settings, slots=2)
    with open_queue(cluster.settings) as queue:
        report = queue.submit([TaskSpec(command=f"sleep 0.2; echo {number}") for number in range(60)])
        wait_until(lambda: queue.counts().done >= 6, 20, lambda: str(queue.counts()))
    valkey = cluster.server.status().pids["valkey"]
    assert valkey
    os.kill(valkey, signal.SIGKILL)
    with open_queue(cluster.settings) as queue:
        assert queue.wait(report.ids, timeout=60), str(queue.counts())
        assert queue.counts().done == 60


def test_a_dead_agent_on_a_live_host_loses_its_tasks_within_ten_seconds(cluster: Cluster) -> None:
    start_clients(cluster.hosts[:1], cluster.settings, slots=1)
    cluster.wait_for_links()
    with open_queue(cluster.settings) as queue:
        queue.submit([TaskSpec(command="sleep 3000")])
        wait_until(lambda: queue.counts().running == 1, 15, lambda: str(queue.counts()))
        home = cluster.home(cluster.hosts[0])
        # Stopped, not killed: its guard would only start it again.
        frozen = [pid for pid, line in processes_of(home).items() if ".pyz client" in line]
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: queue.counts().todo == 1, 11, lambda: str(queue.counts()), pause=0.1)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
