"""Fixtures that bring up labs for tests: real SSH servers, one lab per set of options and test process.

tests/conftest.py makes the fixtures known everywhere; the helpers are imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.hosts import write_host_list
from roomful.lab import Lab, LabOptions
from roomful.settings import Settings

#: What each kind of lab needs, and the Debian package that brings it.
ROOTLESS_PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
NAMESPACE_PROGRAMS = {**ROOTLESS_PROGRAMS, "ip": "iproute2", "tc": "iproute2"}

LabFactory = Callable[..., Lab]

#: Names of this test run's labs, by their options: shared by all who import the fixtures.
_running: dict[tuple[object, ...], str] = {}


def need(reason: str | None) -> None:
    """Skip the test for this reason, or fail it in CI; None is no reason."""
    if reason and os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


def missing(programs: dict[str, str]) -> str | None:
    """Say which of these programs are not installed; None: all are there."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    absent = [f"{name} ({package})" for name, package in programs.items() if not shutil.which(name, path=path)]
    return f"not installed: {', '.join(absent)}" if absent else None


@pytest.fixture(scope="session")
def lab() -> Iterator[LabFactory]:
    """Bring labs up: ``lab(count=3, cpus=0.5)``, with the keywords of LabOptions.

    The same keywords give the same lab for the whole test run; a test that breaks a host heals it, or asks for a lab
    of its own with ``own="why"``. Namespaces need root; ``rootless=True`` does not. Labs that are up at the end of
    the run are taken down.
    """

    def bring_up(*, own: str = "", **options: object) -> Lab:
        rootless = bool(options.setdefault("rootless", os.geteuid() != 0))
        need(missing(ROOTLESS_PROGRAMS if rootless else NAMESPACE_PROGRAMS))
        if not rootless and os.geteuid() != 0:
            need("namespaces need root")
        key = (own, *sorted(options.items()))
        if key in _running and any(found.name == _running[key] for found in labs.labs()):
            return labs.get(_running[key])
        # The pid keeps test runs apart; the number keeps this run's labs apart.
        name = f"t{os.getpid()}-{len(_running)}"
        _running[key] = name
        return labs.up(LabOptions(name=name, **options))  # type: ignore[arg-type]  # the caller's keywords

    try:
        yield bring_up
    finally:
        for name in _running.values():
            labs.down(name)


@pytest.fixture(scope="session")
def rootless_lab(lab: LabFactory) -> Lab:
    """Three user-mode SSH servers on the loopback network; works for root and for ordinary users."""
    return lab(count=3, rootless=True)


def settings_for(lab: Lab, root: Path, **changes: object) -> Settings:
    """Return settings of a project in ``root`` (``tmp_path``) that reach this lab, by its host list ``lab``.

    The list is written to ``root/host_lists/lab.txt``; short deadlines, because a dead host must not hold a test.
    """
    write_host_list(root / "host_lists" / "lab.txt", lab.entries)
    settings = Settings(
        root=root,
        hosts="lab",
        ssh_config=str(lab.ssh_config),
        known_hosts=str(lab.known_hosts),
        connect_timeout_seconds=5.0,
        login_timeout_seconds=10.0,
        command_timeout_seconds=60.0,
    )
    return settings.replace(**changes)


def ssh(
    lab: Lab, host: str, command: str, options: Sequence[str] = (), timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run a command line on a lab host with the plain OpenSSH client."""
    inside = ["nsenter", f"--net=/run/netns/{lab.netns}", "--"] if lab.netns else []
    argv = [*inside, "ssh", "-F", str(lab.ssh_config), "-o", "BatchMode=yes", *options, host, command]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )
