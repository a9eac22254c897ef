"""Fixtures that bring up labs for tests: real SSH servers, one lab per set of options and test process.

tests/conftest.py makes the fixtures known everywhere; the helpers are imported.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.hosts import write_host_list
from roomful.lab import Lab, LabOptions, cgroups, network, processes, store
from roomful.lab.namespaces import NamespaceMachines
from roomful.lab.netns import call_inside
from roomful.settings import Settings

#: What each kind of lab needs, and the Debian package that brings it.
ROOTLESS_PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
NAMESPACE_PROGRAMS = {**ROOTLESS_PROGRAMS, "ip": "iproute2", "tc": "iproute2"}

LabFactory = Callable[..., Lab]
CHECKOUT = Path(__file__).parents[2]

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

    _sweep()
    try:
        yield bring_up
    finally:
        for name in _running.values():
            labs.down(name)


def _sweep() -> None:
    """Take down what earlier test runs have left that were killed: their labs' names hold their pids."""
    for name in [*(found.name for found in labs.labs()), *labs.unfinished()]:
        match = re.fullmatch(r"t([0-9]+)-[0-9]+", name)
        if match and not Path("/proc", match[1]).exists():
            labs.down(name)


@pytest.fixture(scope="session")
def rootless_lab(lab: LabFactory) -> Lab:
    """Three user-mode SSH servers on the loopback network; works for root and for ordinary users."""
    return lab(count=3, rootless=True)


@pytest.fixture
def two(lab: LabFactory) -> Iterator[Lab]:
    """Two hosts with namespaces and disks of their own size; what a test breaks is mended."""
    found = lab(count=2, rootless=False, disk=32 * 2**20)
    yield found
    for host in labs.get(found.name).hosts:
        if host.faults:
            labs.heal(found.name, host.name)


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


def as_root(lab: Lab, host: str, script: str) -> None:
    """Run a shell script as root inside a host with namespaces: what it mounts is there until the host goes off."""
    pid = NamespaceMachines(lab).init_pid(lab.host(host))
    argv = ["nsenter", "--mount", "--uts", "--net", "--pid", f"--target={pid}", "--", "sh", "-ec", script]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, timeout=30)


def change_shell(lab: Lab, host: str, program: str) -> None:
    """Give the student of one host another login shell; skips the test where it is not installed."""
    path = shutil.which(program, path="/usr/bin:/bin")
    need(None if path else f"not installed: {program}")
    assert path
    change_file(lab, host, "/etc/passwd", f"/^student:/s,[^:]*$,{path},")


def change_file(lab: Lab, host: str, path: str, edit: str) -> None:
    """Put an edited copy (a sed script) of a file over it on one host alone."""
    copy = f"/run/changed-{path.replace('/', '-')}"
    as_root(lab, host, f"sed {shlex.quote(edit)} {path} > {copy}; chmod 644 {copy}; mount --bind {copy} {path}")


def connect(lab: Lab, host: str, seconds: float = 1.0) -> str:
    """What an SSH client that connects meets: its banner's first letters, or how it fails."""

    def work() -> str:
        with socket.socket() as sock:
            sock.settimeout(seconds)
            try:
                sock.connect((lab.host(host).address, lab.port))
            except TimeoutError:
                return "no answer"
            except OSError as error:
                return error.strerror or str(error)
            try:
                return sock.recv(4).decode() or "closed"
            except TimeoutError:
                return "silence"

    return call_inside(lab.netns, work)


def traces(name: str) -> list[str]:
    """Everything on this machine that belongs to a lab of this name."""
    found = [str(base / name) for base in store.bases() if (base / name).exists()]
    found += [str(path) for base in store.bases() for path in base.glob(f"*{name}*")]
    found += [f"network {name}"] if network.exists(name) else []
    found += [f"cgroups of {name}"] if cgroups.exists(name) else []
    for base in store.bases():
        found += [f"process {pid}" for pid in processes.marked(base / name)]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{base}/{name}" in line]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"rf-{name} " in line]
    return found


def python(source: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a Python program that can import roomful."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip
