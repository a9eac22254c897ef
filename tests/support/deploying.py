"""Fixtures of tests that deploy: three hosts on the loopback network, a source, and workdirs with an odd name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful import rsync
from roomful.deploy import Deployed
from roomful.hosts import Host, resolve
from roomful.lab import Lab
from roomful.outcome import Outcomes
from roomful.settings import Settings
from tests.support.lab import settings_for
from tests.support.workdirs import make_tree


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path, program: Callable[[str], str]) -> Settings:
    program("rsync")
    # A workdir with a name that a shell would take apart, and no other test's.
    return settings_for(rootless_lab, tmp_path / "project", workdir=f"~/w ork$'{os.urandom(4).hex()}")


@pytest.fixture
def hosts(settings: Settings) -> tuple[Host, ...]:
    return resolve("lab", settings)


@pytest.fixture
def workdirs(rootless_lab: Lab, settings: Settings) -> list[Path]:
    return workdirs_of(rootless_lab, settings)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "a source", {"run.py": "one", "data/a": "a"})


def workdirs_of(lab: Lab, settings: Settings) -> list[Path]:
    """The workdirs of a lab's hosts, as folders of this machine."""
    name = settings.workdir.removeprefix("~/")
    return [lab.host_directory(host.name) / "home" / name for host in lab.hosts]


def results(outcomes: Outcomes[Deployed]) -> list[str]:
    return [
        f"{outcome.value.result}" if outcome.value else f"{outcome.reason}: {outcome.detail}" for outcome in outcomes
    ]


def staging(workdir: Path) -> list[str]:
    return os.listdir(workdir / ".roomful" / "deploy" / "top" / "staging")


def slow(monkeypatch: pytest.MonkeyPatch, kilobytes: int) -> None:
    """Let each push take its time."""
    real = rsync.push_options
    monkeypatch.setattr("roomful.deploy.push_options", lambda *args: [*real(*args), f"--bwlimit={kilobytes}"])
