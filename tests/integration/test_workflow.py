"""The README's shell script, word for word, on hosts that are found by a scan; and a step that fails stops it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.lab import LabFactory, lab

__all__ = ["lab"]

ROOT = Path(__file__).parents[2]
#: GNU parallel's.
COLUMNS = ["Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command"]

pytestmark = pytest.mark.root


def script() -> str:
    """Return the README's script."""
    return re.findall(r"```sh\n(#!/bin/sh\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[0]


@pytest.fixture
def room(lab: LabFactory) -> Lab:
    return lab(count=4, off=("lab03",), refuse_key=("lab04",))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
    shutil.copytree(ROOT / "resources", tmp_path / "resources")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "inv").write_text(f'#!/bin/sh\nexec {sys.executable} -m invoke "$@"\n')
    (tmp_path / "bin" / "inv").chmod(0o755)
    (tmp_path / "nightly.sh").write_text(script())
    yield tmp_path
    for words in (
        ["stop-clients", "--now", "--max-failed=100%", "--hosts=mine"],
        ["stop-server", "--forget", "--yes"],
    ):
        subprocess.run([sys.executable, "-m", "invoke", *words], cwd=tmp_path, capture_output=True, timeout=60)


def run(project: Path, network: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}", "NETWORK": network}
    environment["INVOKE_ROOMFUL_CONNECT_TIMEOUT_SECONDS"] = "4"
    return subprocess.run(
        ["sh", "nightly.sh"],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_readmes_script_goes_from_a_network_to_the_results(project: Path, room: Lab) -> None:
    done = run(project, room.subnet)
    assert done.returncode == 0, done.stdout + done.stderr
    check = subprocess.run(
        [sys.executable, "resources/check.py", "results"], cwd=project, capture_output=True, text=True, check=False
    )
    assert "as it should be" in check.stdout, check.stdout + check.stderr
    joblog = (project / "results" / "joblog.tsv").read_text().splitlines()
    assert joblog[0].split("\t") == COLUMNS
    assert len(joblog) == 251
    found = (project / "host_lists" / "found.txt").read_text()
    mine = (project / "host_lists" / "mine.txt").read_text()
    assert "lab04" in found
    assert "lab04" not in mine


def test_a_step_that_fails_stops_the_script(project: Path, room: Lab) -> None:
    (project / "resources" / "tasks.txt").write_text("true\nexit 7\n")
    done = run(project, room.subnet)
    assert done.returncode == 1
    assert "1 of 2 tasks failed: 2" in done.stderr
    assert not (project / "results").exists(), "collect ran although submit failed"


def test_a_network_with_nobody_stops_it_at_once(project: Path) -> None:
    done = run(project, "127.0.0.77/32")
    assert (done.returncode, "no host" in done.stderr) == (1, True), done.stderr
    assert not (project / "host_lists" / "found.txt").exists()
