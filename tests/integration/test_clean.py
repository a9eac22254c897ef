"""inv clean on real hosts: all of ours goes, what tasks wrote stays, and an agent that works is not disturbed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from roomful.clean import clean
from roomful.client_links import run_directory
from roomful.clients import start_clients, stop_clients
from roomful.deploy import Deployment, deploy
from roomful.hosts import Host
from roomful.server import Server
from roomful.settings import Settings
from tests.support.deploying import hosts, settings, workdirs
from tests.support.server import clean_up
from tests.support.workdirs import make_tree, read_tree

__all__ = ["hosts", "settings", "workdirs"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", {"run.py": "one", "data/a": "a", "data/b": "b"})


def test_what_was_deployed_goes_and_what_tasks_wrote_stays(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    deploy(hosts, settings, Deployment(source))
    for dest in ("code/x", "q" * 200):
        deploy(hosts[:1], settings, Deployment(source, dest=dest))
    (workdirs[0] / "out").mkdir()
    (workdirs[0] / "out" / "1").write_text("result")
    (workdirs[0] / "data" / "of a task").write_text("found")
    (workdirs[0] / "data" / "b").write_text("changed by a task")
    outcomes = clean(hosts, settings)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    first = outcomes[0].value
    assert first
    assert (first.rescued, first.left) == (2, ())
    assert set(first.removed) == {
        *("run.py", "data", "code/x/run.py", "code/x/data"),
        *(f"{'q' * 200}/run.py", f"{'q' * 200}/data"),
    }
    assert first.files == 8
    assert read_tree(workdirs[0]) == {"out/1": "result", "data/of a task": "found", "data/b": "changed by a task"}
    assert not (workdirs[0] / ".roomful").exists()
    assert not workdirs[1].exists()
    assert [outcome.value.result for outcome in clean(hosts, settings) if outcome.value] == ["clean"] * 3


def test_what_had_to_make_way_is_left_and_named(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    make_tree(workdirs[0], {"run.py": "mine"})
    deploy(hosts[:1], settings, Deployment(source, replace=True))
    outcome = clean(hosts[:1], settings)[0]
    assert outcome.value
    assert outcome.value.left == (".roomful/replaced",)
    assert [path.read_text() for path in workdirs[0].rglob("run.py")] == ["mine"]


def test_the_whole_workdir_goes_only_when_told_to(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path, tmp_path: Path
) -> None:
    elsewhere = make_tree(tmp_path / "elsewhere", {"kept": "kept"})
    deploy(hosts, settings, Deployment(source))
    make_tree(workdirs[0] / "out", {"a/b": "b", "link": elsewhere})
    (workdirs[0] / "out" / "a").chmod(0o500)
    outcomes = clean(hosts, settings, everything=True)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert not any(workdir.exists() for workdir in workdirs)
    assert (elsewhere / "kept").exists()
    assert clean(hosts[:1], settings.replace(workdir="~"), everything=True)[0].status == "failed"
    assert workdirs[0].parent.is_dir()


def test_a_release_in_which_a_process_works_stays(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    deploy(hosts[:1], settings, Deployment(source))
    for everything in (False, True):
        with subprocess.Popen(["sleep", "60"], cwd=workdirs[0] / "data") as process:
            try:
                outcome = clean(hosts[:1], settings, everything)[0]
            finally:
                process.kill()
        assert (outcome.status, outcome.reason) == ("failed", "in-use")
        assert (workdirs[0] / "run.py").read_text() == "one"


def test_an_agent_is_not_disturbed_and_its_folder_goes_afterwards(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path, tmp_path: Path
) -> None:
    deploy(hosts, settings, Deployment(source))
    settings = settings.replace(server_directory=str(tmp_path / "server"))
    Server(settings, None).start()
    try:
        start_clients(hosts[:1], settings)
        outcomes = clean(hosts[:2], settings)
        assert [outcome.reason for outcome in outcomes] == ["agent-runs", None]
        assert (workdirs[0] / "run.py").exists()
        assert not workdirs[1].exists()
        stop_clients(hosts[:1], settings)
        folder = Path(run_directory(hosts[0], settings).replace("{uid}", str(os.getuid())))
        (folder / "spool").mkdir(parents=True)
        (folder / "spool" / "output").write_text("long")
        os.chmod(folder, 0o700)
        outcome = clean(hosts[:1], settings)[0]
        assert outcome.value
        assert outcome.value.outputs == 1
        assert (folder / "spool" / "output").exists()
        clean(hosts[:1], settings, everything=True)
        assert not folder.exists()
    finally:
        stop_clients(hosts[:1], settings, now=True, forget=True)
        clean_up(settings)
