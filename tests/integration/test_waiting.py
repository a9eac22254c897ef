"""What Ctrl-C says to those who wait for tasks: its command waits for the same ones."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import Room, a_room
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as room:
        room.start("one", cpus=2.0, memory_bytes=2**30)
        yield room


def interrupted(room: Room, folder: Path, words: list[str]) -> tuple[str, str]:
    """Submit and wait, and end that by Ctrl-C once it waits; return what it said on stdout and on stderr."""
    queue = {"INVOKE_ROOMFUL_SERVER_URL": f"unix://{room.valkey.socket}", "INVOKE_ROOMFUL_CLUSTER": "room"}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "invoke", *words], cwd=folder, env={**os.environ, **queue}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdout
    said = waiting.stdout.readline()
    wait_until(lambda: room.queue.counts().running == 2, 30)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    return said + out, err


def test_the_command_after_ctrl_c_waits_for_the_same_tasks(room: Room, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n")
    (tmp_path / "my jobs.txt").write_text("sleep 61\nsleep 62\n")
    words = ["submit", "my jobs.txt", "--wait", "--memory=1MiB", "--notify=https://127.0.0.1/SECRET"]
    out, err = interrupted(room, tmp_path, words)
    assert "2 added" in out
    assert "SECRET" not in out + err
    again = shlex.split(err.strip().partition("wait for them again: ")[2])
    assert again == ["inv", "submit", "my jobs.txt", "--wait", "--memory=1MiB", "--notify=***"]
    out, err = interrupted(room, tmp_path, again[1:-1])
    assert "0 added, 2 duplicates skipped" in out
    assert room.queue.counts().running == 2


@pytest.mark.parametrize("words", [["--allow-duplicates"], []], ids=["duplicates", "a pipe"])
def test_no_command_is_given_where_there_is_none(room: Room, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n")
    (tmp_path / "jobs.txt").write_text("sleep 61\nsleep 62\n")
    pipe = tmp_path / "pipe"
    if not words:
        os.mkfifo(pipe)
        # Waits for who reads it.
        writer = subprocess.Popen(["sh", "-c", "cat jobs.txt > pipe"], cwd=tmp_path)
    _, err = interrupted(room, tmp_path, ["submit", "jobs.txt" if words else "pipe", "--wait", *words])
    assert err == "the tasks go on; watch them: inv status --watch\n"
    if not words:
        writer.wait(10)
