"""Two steps that change the same hosts at the same time, as from two terminals or two cron jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roomful.hosts import Host, resolve
from roomful.lab import Lab
from roomful.settings import Settings
from roomful.turns import EVERYWHERE, Turn, turn
from tests.support.inv import CHECKOUT, Project, project_for
from tests.support.lab import lab, rootless_lab, settings_for
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]

pytestmark = pytest.mark.integration


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Project:
    made = project_for(rootless_lab, tmp_path, tmp_path / "home", workdir=f"~/turns{os.getpid()}-{tmp_path.name}")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
        (tmp_path / name / "big").write_bytes(os.urandom(8_000_000))
    return made


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        project.argv(words),
        cwd=project.root,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_deployments_at_once_one_waits_and_wins_on_all_hosts(project: Project) -> None:
    running = {name: start(project, "deploy", name) for name in ("one", "two")}
    said = {name: process.communicate(timeout=60)[1] for name, process in running.items()}
    assert [process.returncode for process in running.values()] == [0, 0], said
    (waited,) = [name for name, text in said.items() if "waiting for inv deploy (process " in text]
    other = running["one" if waited == "two" else "two"]
    assert f"waiting for inv deploy (process {other.pid}), which changes lab01,lab02,lab03\n" in said[waited]
    there = project.json("run", "--", "cat " + workdir(project) + "/which")
    assert [host["stdout"] for host in there["hosts"]] == [waited] * 3


def test_clean_waits_for_a_deployment(project: Project, rootless_lab: Lab) -> None:
    settings = settings_for(rootless_lab, project.root)
    (second,) = resolve("lab02", settings)

    def nobody(other: Turn) -> None:
        pytest.fail(f"waits for {other}")

    assert project.inv("deploy", "one").returncode == 0
    with turn("inv deploy", "", [second], settings, nobody):
        cleaning = start(project, "clean", "--workdir", "--yes")
        try:
            assert cleaning.stderr is not None
            line = cleaning.stderr.readline()
            assert line == f"waiting for inv deploy (process {os.getpid()}), which changes lab02\n"
            there = project.json("run", "--", "cat " + workdir(project) + "/which")
            assert [host["stdout"] for host in there["hosts"]] == ["one"] * 3
        except BaseException:
            cleaning.kill()
            raise
    assert cleaning.communicate(timeout=60)
    assert cleaning.returncode == 0


def test_of_two_restarts_of_the_agents_at_once_one_waits_and_both_find_them_well(
    project: Project, rootless_lab: Lab
) -> None:
    assert project.inv("start-server").returncode == 0
    try:
        running = [start(project, "start-clients", "--restart") for _ in range(2)]
        said = [process.communicate(timeout=100)[1] for process in running]
        assert [process.returncode for process in running] == [0, 0], said
        (waited,) = (text for text in said if "waiting for inv start-clients (process " in text)
        assert "which changes lab01,lab02,lab03\n" in waited
        # A deployment may go on meanwhile.
        settings = settings_for(rootless_lab, project.root)
        with turn("inv deploy", "", resolve("lab", settings), settings, lambda _: None):
            assert project.inv("stop-clients").returncode == 0
    finally:
        project.inv("stop-clients", "--now")
        assert project.inv("stop-server", "--forget", "--yes").returncode == 0


def test_an_interrupt_ends_the_waiting(project: Project, rootless_lab: Lab) -> None:
    settings = settings_for(rootless_lab, project.root)
    with turn("inv deploy", "", resolve("lab", settings), settings, lambda _: None):
        waiting = start(project, "deploy", "one")
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("waiting for inv deploy")
        waiting.send_signal(2)
        assert waiting.communicate(timeout=20)[1] == "inv deploy: interrupted\n"
    assert waiting.returncode == 130
    wait_until(lambda: not list((project.root / ".roomful" / "turns").glob("[!.]*")), 5, "a turn stays")


def test_a_step_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from roomful.turns import turn; from roomful.hosts import Host;"
        "from roomful.settings import Settings; settings = Settings(root=pathlib.Path(os.sys.argv[1]))\n"
        "with turn('inv deploy', '', [Host('a')], settings, print): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=CHECKOUT, check=False, timeout=30)
    assert done.returncode == -9
    assert len(list((tmp_path / ".roomful" / "turns").glob("[!.]*"))) == 1
    with turn("inv clean", EVERYWHERE, [Host("a")], Settings(root=tmp_path), pytest.fail):
        assert len(list((tmp_path / ".roomful" / "turns").glob("[!.]*"))) == 1


def workdir(project: Project) -> str:
    """The workdir, as a shell there reads it."""
    return str(json.loads((project.root / "invoke.yaml").read_text())["roomful"]["workdir"])
