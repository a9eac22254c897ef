"""The server comes back, or goes, whatever process of it was killed or frozen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

from roomful.queue import TaskSpec
from roomful.server import Server, ServerStatus, open_queue
from roomful.settings import Settings
from tests.support.server import commands, folder, processes_of, start, submit
from tests.support.waiting import wait_until


def ready_again(project: Settings, name: str, old: int | None) -> ServerStatus:
    """Wait until the server is ready with another process of this name."""

    def look() -> ServerStatus | None:
        status = Server(project, None).status()
        return status if status.state == "ready" and status.pids[name] not in (None, old) else None

    return wait_until(look, 15, lambda: str(Server(project, None).status()))


def test_valkey_killed_comes_back_with_everything_that_was_acknowledged(project: Settings) -> None:
    valkey = start(project).pids["valkey"]
    submit(project, *(f"echo {number}" for number in range(1000)))
    assert valkey
    os.kill(valkey, signal.SIGKILL)
    status = ready_again(project, "valkey", valkey)
    assert status.restarts["valkey"] == 1
    assert len(commands(project)) == 1000


def test_a_command_meanwhile_waits_for_it(project: Settings) -> None:
    """Not one second of a restart is met as an error by who submits."""
    valkey = start(project).pids["valkey"]
    assert valkey
    with open_queue(project) as queue:
        os.kill(valkey, signal.SIGKILL)
        queue.submit([TaskSpec(command="true")])
        assert queue.counts().todo == 1


def test_the_keeper_killed_comes_back(project: Settings) -> None:
    first = start(project).pids
    assert first["keeper"]
    os.kill(first["keeper"], signal.SIGKILL)
    again = ready_again(project, "keeper", first["keeper"])
    assert again.pids["valkey"] == first["valkey"]


def test_the_supervisor_killed_takes_all_down_and_a_start_brings_all_back(project: Settings) -> None:
    first = start(project).pids
    submit(project, "echo kept")
    assert first["supervisor"]
    os.kill(first["supervisor"], signal.SIGKILL)
    status = start(project)
    assert not set(status.pids.values()) & set(first.values())
    assert commands(project) == ["echo kept"]
    assert len(processes_of(folder(project))) == 3


def test_a_frozen_valkey_without_its_supervisor_is_stopped_too(project: Settings) -> None:
    pids = start(project).pids
    assert pids["valkey"]
    assert pids["supervisor"]
    os.kill(pids["valkey"], signal.SIGSTOP)
    os.kill(pids["supervisor"], signal.SIGKILL)
    Server(project, None).stop()
    assert not processes_of(folder(project))


def test_a_frozen_valkey_is_stopped_by_its_supervisor(project: Settings) -> None:
    valkey = start(project).pids["valkey"]
    assert valkey
    os.kill(valkey, signal.SIGSTOP)
    assert Server(project, None).stop().stopped
    assert not processes_of(folder(project))


def test_stale_pids_harm_nobody(project: Settings) -> None:
    """What an earlier life wrote down names processes that are somebody else's now: here, a bystander."""
    start(project)
    Server(project, None).stop()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            (folder(project) / "lock").write_text(f"{bystander.pid}\n")
            document = json.loads((folder(project) / "status.json").read_text())
            document.update(state="ready", valkey=bystander.pid, supervisor=bystander.pid)
            (folder(project) / "status.json").write_text(json.dumps(document))
            assert not Server(project, None).status().running
            assert not Server(project, None).stop().stopped
            start(project)
            Server(project, None).stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_start_after_a_stop_that_was_interrupted_starts_anew(project: Settings) -> None:
    supervisor = start(project).pids["supervisor"]
    assert supervisor
    submit(project, "echo kept")
    os.kill(supervisor, signal.SIGTERM)
    while json.loads((folder(project) / "status.json").read_text())["state"] == "ready":
        time.sleep(0.001)
    # It takes a while, as with much data.
    os.kill(supervisor, signal.SIGSTOP)
    timer = threading.Timer(2.0, os.kill, (supervisor, signal.SIGCONT))
    timer.start()
    assert start(project).pids["supervisor"] != supervisor
    timer.cancel()
    assert commands(project) == ["echo kept"]


def test_a_suspended_supervisor_ends_when_it_is_told_to(project: Settings) -> None:
    supervisor = start(project).pids["supervisor"]
    assert supervisor
    os.kill(supervisor, signal.SIGSTOP)
    begin = time.monotonic()
    assert Server(project, None).stop().stopped
    assert time.monotonic() - begin < 30
    assert not processes_of(folder(project))
