"""A user's project whose tasks about tasks are called as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import PATIENCE, Room, a_room
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Project:
    """A user's project whose queue is a private one with one real client, ``one``."""

    folder: Path
    room: Room

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "INVOKE_ROOMFUL_SERVER_URL": f"unix://{self.room.valkey.socket}",
            "INVOKE_ROOMFUL_CLUSTER": "room",
        }

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *words], cwd=self.folder, env=self.environment, **options
        )

    def inv(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def ok(self, *words: str, given: bytes = b"") -> str:
        done = self.inv(*words, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def refused(self, *words: str, given: bytes = b"", code: int = 2) -> str:
        """Run what must be refused: nothing on stdout, one line on stderr."""
        done = self.inv(*words, given=given)
        assert (done.returncode, done.stdout) == (code, b""), done.stderr.decode()
        [line] = done.stderr.decode().splitlines()
        return line.removeprefix(f"inv {words[0]}: ")

    def write(self, name: str, data: bytes | str) -> str:
        (self.folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return name

    def table(self, *words: str) -> list[list[str]]:
        """The rows of a table that is printed, cells cut at two blanks."""
        rows = self.ok(*words).splitlines()[2:]
        return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


@pytest.fixture(scope="module")
def project_room() -> Iterator[Room]:
    """A queue and a client for all projects of a file."""
    with a_room() as room:
        room.start("one", cpus=2.0, memory_bytes=2**30)
        yield room


@pytest.fixture
def queue_project(project_room: Room, tmp_path: Path) -> Project:
    """A project with an empty queue and an idle client."""
    room = project_room
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n")
    room.queue.drain(["one"], resume=True)
    room.queue.cancel()
    wait_until(lambda: room.client("one").running == 0, PATIENCE, lambda: f"{room.queue.clients()} {room.log()}")
    room.queue.reset()
    return Project(tmp_path, room)
