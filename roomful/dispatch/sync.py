"""``--sync``: a folder brought to the host before a command and back after it, by rsync through the dispatcher.

rsync's remote shell is a dsh that is told its host, so files travel over the connection that is warm already. Both
ways files replace each other only when they are complete; until then they lie in a folder beside them that no other
rsync sees, for with make -j many run in the same folder at the same time. Back comes what is newer there, or missing
here; what the command removed there stays here.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from .client import client_argv

#: Where rsync writes files until they are complete: a folder of each rsync's own, with a name that begins like this,
#: which is removed after it. (With --partial-dir and --delay-updates rsyncs could not share a folder.)
INCOMING = ".roomful-incoming"
#: rsync wants a host's name before the command; ``--rsh`` drops it, ``--on`` says which it is.
HOST = "roomful"
#: So often it is asked whether what rsync brings is still wanted, in seconds.
LOOK_SECONDS = 0.02


class SyncFailure(Exception):
    """Say why files could not be brought."""


@dataclass(frozen=True)
class Plan:
    """A folder here and there, the host's label, and the socket of the dispatcher that leads to it."""

    label: str
    here: str
    there: str
    socket: str

    @property
    def remote_shell(self) -> list[str]:
        """The command that stands for ssh."""
        return client_argv("--socket", self.socket, "--on", self.label, "--rsh")

    @property
    def target(self) -> str:
        """The folder there as a program sees it that starts in the home and knows no ``~``."""
        return (self.there.removeprefix("~").lstrip("/") or ".") if self.there.startswith("~") else self.there


def rsync_argv(plan: Plan, incoming: str, back: bool = False) -> list[str]:
    """Return rsync's command line for the way there, or back; files come into ``incoming`` first."""
    options = ["-a", "-s", f"--temp-dir={incoming}", f"--exclude={INCOMING}*"]
    # By itself rsync takes files that changed within one second for the same.
    options += ["--modify-window=-1", "--rsh", shlex.join(plan.remote_shell)]
    there, here = f"{HOST}:{plan.target.rstrip('/')}/", f"{plan.here.rstrip('/')}/"
    return ["rsync", *options, "--update", there, here] if back else ["rsync", *options, here, there]


def push(plan: Plan, given_up: Callable[[], bool]) -> None:
    """Bring the folder there, for as long as anybody wants it. Raises SyncFailure."""
    incoming = f"{INCOMING}-{secrets.token_hex(8)}"
    there = f"{plan.target}/{incoming}"
    try:
        _run([*plan.remote_shell, HOST, "mkdir", "-p", "--", there], given_up)
        _run(rsync_argv(plan, incoming), given_up)
    finally:
        # Also for a client that has gone; a host that has gone is asked in vain.
        with contextlib.suppress(SyncFailure):
            _run([*plan.remote_shell, HOST, "rm", "-rf", "--", there])


def pull(plan: Plan, given_up: Callable[[], bool]) -> None:
    """Bring back what is newer there, for as long as anybody wants it. Raises SyncFailure."""
    try:
        incoming = tempfile.mkdtemp(prefix=f"{INCOMING}-", dir=plan.here)
    except OSError as error:
        raise SyncFailure(f"cannot write {plan.here}: {error.strerror}") from error
    try:
        _run(rsync_argv(plan, incoming, back=True), given_up)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _run(argv: list[str], given_up: Callable[[], bool] = lambda: False) -> None:
    if shutil.which("rsync") is None:
        raise SyncFailure("rsync is not installed; install it with: apt-get install rsync")
    try:
        lines, code = _watched(argv, given_up)
    except OSError as error:
        raise SyncFailure(f"cannot run {argv[0]} here: {error.strerror or error}") from error
    # 24: files disappeared while rsync read them, as those of other commands do.
    if code not in (0, 24):
        raise SyncFailure(lines[0] if lines else f"rsync: exit {code}")


def _watched(argv: list[str], given_up: Callable[[], bool]) -> tuple[list[str], int]:
    """Run it for as long as it is wanted; returns the lines that it wrote to stderr, and its exit code."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            if given_up():
                process.terminate()
                process.wait()
                raise SyncFailure("interrupted")
            time.sleep(LOOK_SECONDS)
        errors.seek(0)
        return [line.strip() for line in errors.read().splitlines() if line.strip()], process.returncode
