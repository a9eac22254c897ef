"""The server on this machine: one at a time, and back on the same data after a stop."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roomful.agent.private import Lock
from roomful.errors import ServerError
from roomful.server import Server, open_queue
from roomful.settings import Settings
from tests.support.server import clean_up, commands, folder, processes_of, start, submit


def test_without_a_server_the_queue_says_how_to_start_one(project: Settings) -> None:
    with (
        pytest.raises(ServerError, match="the server does not run; start it with: inv start-server"),
        open_queue(project),
    ):
        pass
    assert not Server(project, None).status().running


def test_a_server_that_was_stopped_comes_back_with_its_tasks(project: Settings) -> None:
    start(project)
    submit(project, "echo one", "echo two")
    stopped = Server(project, None).stop()
    assert stopped.stopped
    assert stopped.data_bytes > 0
    with pytest.raises(ServerError, match="start it with"), open_queue(project):
        pass
    start(project)
    assert commands(project) == ["echo one", "echo two"]


def test_stopping_what_does_not_run_is_no_error(project: Settings) -> None:
    assert not Server(project, None).stop().stopped


def test_a_second_start_finds_the_first(project: Settings) -> None:
    first = start(project)
    again, already = Server(project, None).start()
    assert already
    assert again.pids == first.pids
    assert not again.outdated


def test_starts_at_the_same_time_make_one_server(project: Settings) -> None:
    """Separate processes, as two users' terminals would: the race is for a file, not for a thread's lock."""
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom roomful.server import Server\n"
        "from roomful.settings import Settings\n"
        "settings = Settings(root=Path(sys.argv[1]), server_directory=sys.argv[2])\n"
        "status, already = Server(settings, None).start()\nprint(json.dumps([already, dict(status.pids)]))\n"
    )
    argv = [sys.executable, "-c", program, str(project.root), project.server_directory]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: subprocess.run(argv, capture_output=True, check=True, text=True), range(4)))
    replies = [json.loads(run.stdout) for run in runs]
    assert sorted(already for already, _ in replies) == [False, True, True, True]
    assert len({pids["valkey"] for _, pids in replies}) == 1
    assert len([line for line in processes_of(folder(project)).values() if "supervise" in line]) == 1


def test_forget_leaves_nothing_and_touches_nothing_else(project: Settings) -> None:
    start(project)
    (folder(project) / "mine.txt").write_text("not roomful's")
    assert Server(project, None).stop(forget=True).forgotten
    assert [path.name for path in folder(project).iterdir()] == ["mine.txt"]
    (folder(project) / "mine.txt").unlink()
    start(project)
    Server(project, None).stop(forget=True)
    assert not folder(project).exists()
    assert not (project.root / ".roomful" / "server.json").exists()


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, server_directory=str(tmp_path / ("long" * 25)))
    try:
        status = start(settings)
        assert len(status.socket) <= 107
        assert stat.S_IMODE(Path(status.socket).parent.stat().st_mode) == 0o700
        submit(settings, "true")
        assert commands(settings) == ["true"]
    finally:
        clean_up(settings)
    assert not Path(status.socket).parent.exists()


def test_two_projects_do_not_meet(project: Settings, tmp_path: Path) -> None:
    other = Settings(root=tmp_path / "other", server_directory=str(tmp_path / "server2"))
    try:
        start(project)
        start(other)
        submit(project, "echo mine")
        assert commands(other) == []
        Server(other, None).stop()
        assert commands(project) == ["echo mine"]
    finally:
        clean_up(other)


def test_a_start_waits_for_a_stop(project: Settings) -> None:
    start(project)
    with ThreadPoolExecutor(2) as pool:
        stopping = pool.submit(Server(project, None).stop)
        time.sleep(0.02)
        starting = pool.submit(Server(project, None).start)
        assert stopping.result().stopped
        starting.result()
    assert Server(project, None).status().state in ("ready", "stopped")
    assert len(processes_of(folder(project))) in (0, 3)


def test_the_lock_lets_others_look(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.owner() is None
    assert lock.acquire()
    assert Lock(tmp_path / "lock").owner() == os.getpid()
    assert not Lock(tmp_path / "lock").acquire(wait=0.05)
    lock.release()
    assert Lock(tmp_path / "lock").owner() is None
