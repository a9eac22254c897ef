"""What every test has: a home of its own, and one way to say which programs and rights it needs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

#: The fixtures of the lab, of servers, of queues and of workdirs, for every test.
pytest_plugins = [f"tests.support.{name}" for name in ("lab", "queue_project", "queues", "server", "workdirs")]

#: Where a missing program or right is a failure, not a reason to skip.
IN_CI = bool(os.environ.get("CI"))
#: More than the CPUs: a test of a dead host sleeps until its deadline.
WORKERS = 4
CHECKOUT = Path(__file__).parent.parent

# A shell has its background jobs ignore Ctrl-C, and what they start as well; our tests send it to programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# The machine is shared: a slow example says nothing. In CI each run tries the same examples.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if IN_CI else "here")


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it in CI: there, everything must be present."""
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite several files at a time, most tests only wait; what the command line names, right here."""
    return WORKERS if config.args == config.getini("testpaths") else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in tests/integration as such."""
    for item in items:
        if item.path.is_relative_to(CHECKOUT / "tests" / "integration"):
            item.add_marker(pytest.mark.integration)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run the tests marked `root` only as root."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        skip_or_fail("needs root")


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests a home of their own, and none of the caller's settings or SSH agent.

    OpenSSH asks the password file for the home, not HOME: its tests name every file they use.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("INVOKE_", "ROOMFUL_", "SSH_")) or name == "NO_COLOR":
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_next_sync() -> Iterator[None]:
    """Let hundreds of submissions not wait a second each for the disk; test_promises_disk.py does wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.durability.SYNC_EVERY_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds bootstrap, pyproject.toml and tasks.py."""
    return CHECKOUT


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a program by name: `program("nmap")` is its path, or the test is skipped (in CI: fails)."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if path is None:
            skip_or_fail(f"needs the program {name}")
        assert path
        return path

    return find
