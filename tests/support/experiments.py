"""Experiments in tests: functions run as experiments in this process, or files run by ``inv experiments.run``."""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.experiments import ServerList
from roomful.experiments.journal import Journal
from roomful.experiments.logs import logger
from roomful.experiments.plan import make_plan
from roomful.experiments.provenance import Provenance
from roomful.experiments.registry import Registry, reg_exp
from roomful.experiments.results import Result, Results
from roomful.experiments.runner import Runner, RunOptions
from roomful.experiments.servers import loading_settings
from roomful.lab import Lab
from roomful.settings import Settings
from tests.support.lab import CHECKOUT, settings_for
from tests.support.waiting import wait_until

INV = str(Path(sys.executable).with_name("inv"))
HEAD = "from roomful.experiments import *\nservers = ServerList.from_hosts('lab')\n"
Finished = subprocess.CompletedProcess[str]
Perform = Callable[..., list[Result]]


def servers_of(settings: Settings) -> ServerList:
    """Return the servers of the host list ``lab``."""
    token = loading_settings.set(settings)
    try:
        return ServerList.from_hosts("lab")
    finally:
        loading_settings.reset(token)


def performer(settings: Settings, servers: ServerList) -> Perform:
    """Return what runs functions, or pairs of one and its servers, as experiments, and tells how they ended."""

    def perform(*experiments: Any, options: RunOptions | None = None, **use: Any) -> list[Result]:
        registry = Registry()
        with registry.collecting():
            for item in experiments:
                function, used = item if isinstance(item, tuple) else (item, servers)
                reg_exp(**{"servers": used, **use})(function)
        results = Results(settings.root / "runs", Provenance("run", "inv experiments.run x", 1, "now"))
        journal = Journal(settings.root / ".roomful" / "experiments.jsonl")
        return Runner(settings, options or RunOptions(keep_going=True), journal, results).run(
            make_plan(registry.registrations, seed=1)
        )

    return perform


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    return settings_for(rootless_lab, tmp_path)


@pytest.fixture
def servers(settings: Settings) -> ServerList:
    return servers_of(settings)


@pytest.fixture
def perform(
    settings: Settings, servers: ServerList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> Perform:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger.name)
    return performer(settings, servers)


def ok(results: list[Result]) -> None:
    """Check that all have succeeded."""
    assert [(result.status, result.detail) for result in results] == [("ok", "")] * len(results)


def failure(results: list[Result]) -> str:
    """Check that the only one has failed, and return why."""
    assert [result.status for result in results] == ["failed"]
    return results[0].detail


class Kept(list[str]):
    """A handler that keeps the lines."""

    def __call__(self, line: str) -> None:
        self.append(line)


class Experiments:
    """A project's folder whose host list is a lab's."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder
        settings_for(lab, folder)
        (folder / "tasks.py").write_text("from fabfile import ns\n")
        text = f"roomful:\n  ssh_config: {lab.ssh_config}\n  known_hosts: {lab.known_hosts}\n"
        (folder / "invoke.yaml").write_text(text)
        self.environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm", "COLUMNS": "120"}

    def write(self, name: str, text: str, head: str = HEAD) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + text)

    def inv(self, *words: str, timeout: float = 60) -> Finished:
        return subprocess.run(
            [INV, *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def run(self, *words: str, timeout: float = 60) -> Finished:
        return self.inv("experiments.run", *words, timeout=timeout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [INV, "experiments.run", *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def statuses(self, *words: str) -> dict[str, str]:
        done = self.run(*words, "--json")
        return {item["experiment"]: item["status"] for item in json.loads(done.stdout)["experiments"]}


class Terminal:
    """`inv` on a terminal of its own."""

    def __init__(self, project: Experiments, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(project.folder)
            os.execve(INV, [INV, *words], project.environment)
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def expect(self, text: str, seconds: float = 20) -> None:
        wait_until(
            lambda: text in self.seen or (not self.read(0.1) and text in self.seen), seconds, lambda: self.seen
        )

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        deadline = time.monotonic() + 20
        while self.read(0.1) and time.monotonic() < deadline:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
