"""Standard streams that are closed or full: one line, the right exit code, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.queue_project import Project

pytestmark = pytest.mark.integration


@pytest.fixture
def project(queue_project: Project) -> Project:
    return queue_project


def call(project: Project, command: str) -> tuple[int, str, str]:
    """Run a line of shell in which ``inv`` is ours; return exit code, stdout and stderr."""
    line = f'inv() {{ "{sys.executable}" -m invoke "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        ("inv submit - <&-", 2, "inv submit: standard input: the file is empty; write one command a line\n"),
        ("inv reset <&-", 2, "inv reset: there is no terminal to ask on; give --yes if you mean it\n"),
        ("inv status >/dev/full", 1, "inv status: cannot write the output: No space left on device\n"),
        ("inv tasks --json >/dev/full", 1, "inv tasks: cannot write the output: No space left on device\n"),
        ("inv logs all >/dev/full", 1, "inv logs: cannot write the output: No space left on device\n"),
        ("inv submit nosuch 2>&-", 2, ""),
        ("inv tasks >&-", 0, ""),
        ("inv tasks --json | true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_closed_and_full_streams(project: Project, command: str, code: int, stderr: str) -> None:
    project.room.run("echo hello")
    assert call(project, command) == (code, "", stderr)
