"""How long inv shell waits: for hosts that never say who they are, and for work that takes its time."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support import bad_servers
from tests.support.inv import Project, project_for
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "rootless_lab"]

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path, rootless_lab: Lab) -> Project:
    return project_for(rootless_lab, tmp_path, tmp_path / "home", connect_timeout_seconds=1.0)


def test_a_host_that_never_says_who_it_is_is_given_up_in_time(project: Project) -> None:
    with bad_servers.serve(bad_servers.rambling) as address:
        start = time.monotonic()
        done = project.inv("shell", address, "--", "true")
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert f"inv shell: {address}: timeout: " in done.stderr
    assert time.monotonic() - start < 10


def test_nothing_is_ended_that_logs_in(project: Project) -> None:
    done = project.inv("shell", "lab01", "--", "sleep 4; echo there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")
