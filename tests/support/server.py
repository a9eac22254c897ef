"""A project whose server tests may start, break and stop; whatever happens, nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.queue import TaskSpec
from roomful.server import Server, ServerStatus, open_queue
from roomful.settings import Settings
from tests.support.waiting import wait_until


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an empty project with a server folder of its own; its server is gone at the end."""
    settings = Settings(root=tmp_path, server_directory=str(tmp_path / "server"))
    yield settings
    clean_up(settings)


def clean_up(settings: Settings) -> None:
    """Stop and forget the server of a project; fails if a process of it remains.

    What remains is killed by its folder's name, so the project must have a server folder of its own.
    """
    directory = Path(settings.server_directory)
    # "." (no folder set) would be in the arguments of every process of the machine.
    if not directory.is_absolute() or len(directory.parts) < 3:
        raise ValueError(f"a test's server needs a folder of its own, not {settings.server_directory!r}")
    try:
        Server(settings, None).stop(forget=True)
        wait_until(lambda: not processes_of(directory), 10, lambda: f"left: {processes_of(directory)}")
    finally:
        for pid in processes_of(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes whose arguments or working directory name a folder, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            place = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if os.fsencode(folder) in command or (place + "/").startswith(f"{folder}/"):
            found[int(name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def folder(project: Settings) -> Path:
    """The server's folder."""
    return Path(project.server_directory)


def start(project: Settings) -> ServerStatus:
    """Start the server of a project that has none."""
    status, already = Server(project, None).start()
    assert not already
    return status


def submit(project: Settings, *commands: str) -> None:
    """Submit shell tasks."""
    with open_queue(project) as queue:
        queue.submit([TaskSpec(command=command) for command in commands])


def commands(project: Settings) -> list[str]:
    """The commands of all tasks that the queue has."""
    with open_queue(project) as queue:
        return [task.spec.command for task in queue.tasks()]
