"""What becomes of a step whose own output is full, closed, left by its reader, or stopped half-way."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.inv import Project, project_for
from tests.support.lab import lab, rootless_lab
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]

pytestmark = pytest.mark.integration

HOSTS = 3


@pytest.fixture
def project(tmp_path: Path, rootless_lab: Lab) -> Project:
    return project_for(rootless_lab, tmp_path, tmp_path / "home")


def sh(project: Project, line: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which ``"$@"`` is ``inv WORDS``."""
    argv = ["bash", "-c", line, "bash", *project.argv(words)]
    return subprocess.run(
        argv,
        cwd=project.root,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [("hosts",), ("run", "--", "echo a"), ("run", "--gather", "--", "echo a"), ("filter",)],
    ids=lambda words: " ".join(words),
)
def test_a_full_disk_behind_stdout_is_one_line(project: Project, words: tuple[str, ...]) -> None:
    done = sh(project, '"$@" > /dev/full', *words)
    assert done.returncode == 1
    assert done.stderr == f"inv {words[0]}: cannot write the output: No space left on device\n"


def test_a_reader_that_leaves_ends_the_run_and_blames_no_host(project: Project, tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    # One host speaks; it is seen at once that nobody hears it, whatever the others still have to do.
    quiet = f"mkdir {tmp_path}/first || exec sleep 50"
    loop = f"trap '' PIPE; trap 'touch {mark}; exit' TERM; while sleep 0.2; do echo more; done"
    done = sh(project, '"$@" | head -1; echo ${PIPESTATUS[0]}', "run", "--", f"{quiet}; {loop}")
    assert done.stdout.endswith(": more\n141\n")
    assert "lost" not in done.stderr
    wait_until(mark.exists, 10, "the loops on the hosts go on")


@pytest.mark.parametrize(
    ("line", "lines"),
    [('"$@" >&-', 0), ('"$@" 2>&-', HOSTS), ('"$@" <&-', HOSTS), ('"$@" <&- >&- 2>&-', 0)],
    ids=["stdout", "stderr", "stdin", "all"],
)
@pytest.mark.parametrize("words", [("run", "--", "echo a"), ("filter",)], ids=["run", "filter"])
def test_closed_streams_are_as_if_nobody_read_them(
    project: Project, line: str, lines: int, words: tuple[str, ...]
) -> None:
    done = sh(project, line, *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("lab0") == lines


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "PYTHONUNBUFFERED"])
def test_no_byte_is_lost_where_writing_is_stopped(project: Project, unbuffered: str) -> None:
    process = subprocess.Popen(
        project.argv(["run", "--gather", "--hosts", "lab01", "--", "seq 100000"]),
        cwd=project.root,
        env={**project.environment, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    pipe = process.stdout.fileno()

    def waiting() -> int:
        return int(struct.unpack("i", ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0])

    # The pipe is full, so that the rest is being written.
    wait_until(lambda: waiting() > 60_000, 20, lambda: f"{waiting()} bytes came")
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.split(b"---------------\n")[2] == b"".join(b"%d\n" % number for number in range(1, 100_001))
