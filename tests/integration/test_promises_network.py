"""Hosts whose network fails in one direction only, past the lease: their tasks go elsewhere and count once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.queue import Queue, TaskSpec
from roomful.records import TaskRecord
from roomful.server import open_queue
from roomful.settings import Settings
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, settings_for, ssh
from tests.support.server import clean_up
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

LEASE_SECONDS = 6.0


@pytest.fixture
def room(lab: LabFactory) -> Iterator[Lab]:
    """Two hosts that a test may cut off; they are mended afterwards."""
    room = lab(own="one-way cuts", count=2, rootless=False)
    yield room
    for host in room.hosts:
        labs.heal(room.name, host.name)


@pytest.fixture
def settings(room: Lab, tmp_path: Path) -> Settings:
    server = str(tmp_path / "server")
    return settings_for(room, tmp_path, server_directory=server, lease_seconds=LEASE_SECONDS)


@pytest.fixture
def project(room: Lab, settings: Settings, tmp_path: Path) -> Iterator[Project]:
    """A running server here, and an agent with one slot on each host; none of them is left afterwards."""
    names = ("ssh_config", "known_hosts", "server_directory", "lease_seconds", "command_timeout_seconds")
    made = project_for(room, tmp_path, tmp_path, **{name: getattr(settings, name) for name in names})
    for words in (["start-server"], ["start-clients", "--slots", "1"]):
        done = made.inv(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield made
        for host in room.hosts:
            labs.heal(room.name, host.name)
        done = made.inv("stop-clients", "--now", "--forget")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        clean_up(settings)


def task(queue: Queue, task_id: int) -> TaskRecord:
    record = queue.task(task_id)
    assert record
    return record


def live(queue: Queue) -> set[str]:
    """Hosts whose agents are heard."""
    return {client.host for client in queue.clients() if client.state == "live"}


@pytest.mark.parametrize("how", ["cut-in", "cut-out"])
def test_a_host_that_only_hears_or_only_speaks_loses_its_task_to_another(
    project: Project, settings: Settings, room: Lab, how: str
) -> None:
    with open_queue(settings) as queue:
        hold = "[ $ROOMFUL_ATTEMPT = 1 ] && { sleep 600; echo late; } || echo $ROOMFUL_HOST"
        (task_id,) = queue.submit([TaskSpec(command=hold)]).ids
        first = wait_until(lambda: task(queue, task_id).host, 20, lambda: str(queue.counts()))
        labs.fail(room.name, first, how)
        assert queue.wait([task_id], timeout=40), str(queue.counts())
        record = task(queue, task_id)
        assert (record.state, record.attempt) == ("done", 2)
        assert record.host != first
        assert [(entry.host, entry.reason) for entry in record.tries] == [(first, "lost")]
        # Back again, it finds that the task is not its any more, ends it, and serves.
        labs.heal(room.name, first)
        wait_until(lambda: first in live(queue), 60, lambda: str(queue.clients()))
        wait_until(lambda: not ssh(room, first, "pgrep -f 'sleep 60[0]'").stdout, 15, "the fenced task still runs")
        assert task(queue, task_id) == record
