"""Acknowledged means on disk: what is told of a submission while the disk takes nothing, and when it does again.

A killed server loses nothing that it has written, synced or not; only a disk that is held up tells the two apart.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import durability, submitter
from roomful.errors import ServerError
from roomful.queue import Queue, TaskSpec
from roomful.records import SubmitReport
from roomful.server import Server
from roomful.settings import Settings
from tests.support import slow_disk
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

#: As it is for users.
SYNC_EVERY_SECONDS = 1.2
#: Longer than the server keeps a write back while a sync is under way.
HELD_SECONDS = 2.8


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "SYNC_EVERY_SECONDS", SYNC_EVERY_SECONDS)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path).start()
    yield server
    server.stop()


def pid_of(valkey: Valkey) -> int:
    assert valkey.process
    return valkey.process.pid


@pytest.mark.parametrize("before", ["nothing", "another submission", "a sync that is held up"])
def test_a_submission_returns_when_the_disk_has_it_and_not_before(valkey: Valkey, before: str) -> None:
    reports: list[SubmitReport] = []
    with Queue.connect(valkey.socket, "room") as queue:

        def submit() -> None:
            reports.append(queue.submit([TaskSpec(command="true")]))

        if before != "nothing":
            # The next sync is a second away.
            queue.submit([TaskSpec(command="echo before")])
        with slow_disk.stuck(pid_of(valkey)):
            if before == "a sync that is held up":
                valkey.client().set("another", "write")
                wait_until(lambda: valkey.client().info("persistence")["aof_pending_bio_fsync"], 10)
            thread = threading.Thread(target=submit)
            thread.start()
            wait_until(lambda: valkey.client().exists(queue.keys.task), 10)
            held = time.monotonic()
            while time.monotonic() - held < HELD_SECONDS:
                assert reports == [], "the disk has not taken it yet"
                time.sleep(0.05)
        thread.join(20)
    assert [(report.added, report.durable) for report in reports] == [(1, True)]


def test_a_submission_of_what_another_has_just_added_waits_for_the_disk_as_well(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the same file is submitted again, because the disk was too slow the first time."""
    with Queue.connect(valkey.socket, "room") as queue:
        queue.submit([TaskSpec(command="echo before")])
        with slow_disk.stuck(pid_of(valkey)):
            monkeypatch.setattr(submitter, "_DURABLE_SECONDS", 2)
            for _ in ("the first time", "again"):
                with pytest.raises(ServerError, match="did not take the tasks within 2 s"):
                    queue.submit([TaskSpec(command="true")])
            assert queue.counts().todo == 2
        monkeypatch.undo()
        report = queue.submit([TaskSpec(command="true")])
    assert (report.added, report.skipped, report.durable) == (0, 1, True)


def test_a_disk_that_takes_nothing_is_an_error(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitter, "_DURABLE_SECONDS", 2)
    with (
        Queue.connect(valkey.socket, "room") as queue,
        slow_disk.stuck(pid_of(valkey)),
        pytest.raises(ServerError, match="the server's disk did not take the tasks within 2 s"),
    ):
        queue.submit([TaskSpec(command="true")])


def test_where_nothing_is_kept_that_is_told(valkey: Valkey) -> None:
    valkey.client().config_set("appendonly", "no")
    with Queue.connect(valkey.socket, "room") as queue:
        assert not queue.submit([TaskSpec(command="true")]).durable
    valkey.signal(signal.SIGKILL)
    valkey.start()
    with Queue.connect(valkey.socket, "room") as queue:
        assert queue.counts().todo == 0


def test_who_has_the_servers_files_has_them_synced_at_once(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "SYNC_EVERY_SECONDS", 60.0)
    synced: list[bytes] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").read_bytes())
        real(handle)

    Server(project, None).start()
    with Server(project, None).queue() as queue:
        monkeypatch.setattr(os, "fsync", fsync)
        assert queue.submit([TaskSpec(command="echo to be kept")]).durable
    assert any(b"echo to be kept" in text for text in synced)


def test_who_cannot_sync_the_servers_files_waits_for_the_server(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with Queue.connect(valkey.socket, "room") as queue, slow_disk.stuck(pid_of(valkey)):
        queue.data = tmp_path
        monkeypatch.setattr(submitter, "_DURABLE_SECONDS", 2)
        with pytest.raises(ServerError, match="the server's disk did not take the tasks"):
            queue.submit([TaskSpec(command="true")])


def test_a_server_that_never_syncs_is_not_said_to_have_them_on_disk(valkey: Valkey) -> None:
    valkey.client().config_set("appendfsync", "no")
    with Queue.connect(valkey.socket, "room") as queue:
        assert not queue.submit([TaskSpec(command="true")]).durable
