"""What one command is started with, and what this host has for starting it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from . import visit

#: What a stream may send before the controller allows more, where START does not say.
ALLOWANCE = 1 << 16


class Job:
    """What START describes, ready to be started by its supervisor.

    The object's keys: ``argv`` (list of words) or ``shell`` (a command line for bash, sh where there is none);
    ``cwd`` (``~`` and relative paths start at the home); ``env`` (changes; null removes); ``line_buffered``;
    ``terminal`` (stdout is a terminal, in raw mode); ``stdin``, ``stdout``: false for /dev/null; ``joined``: stderr
    is stdout; ``umask``; ``allowance``: [stdout, stderr]; ``visit``: folders to look into before the start, and names
    to look at first, see `visit`.
    """

    def __init__(self, told: dict[str, Any], host: Host) -> None:
        self.argv: list[str] = (
            [host.shell, *host.shell_options, "-c", told["shell"]] if "shell" in told else told["argv"]
        )
        self.cwd = host.path(told.get("cwd") or "")
        folders, stems = told.get("visit") or ([], [])
        self.visit = [host.path(folder) for folder in folders], frozenset(stems)
        self.env = dict(os.environ)
        if told.get("line_buffered"):
            host.line_buffer(self.env)
        for name, value in (told.get("env") or {}).items():
            self.env.pop(name, None)
            if value is not None:
                self.env[name] = value
        self.allowance: list[int] = told.get("allowance") or [ALLOWANCE, ALLOWANCE]
        self.stdin, self.feed = _pipe_in() if told.get("stdin", True) else (_null(), -1)
        if told.get("terminal"):
            self.stdout, self.output = _terminal()
        else:
            self.stdout, self.output = _pipe_out() if told.get("stdout", True) else (_null(), -1)
        self.stderr, self.errors = (os.dup(self.stdout), -1) if told.get("joined") else _pipe_out()
        self.umask: int | None = told.get("umask")

    def spawn(self) -> int:
        """Start the command as the leader of a session of its own; called in the supervisor."""
        visit.visit(*self.visit)
        if self.umask is not None:
            os.umask(self.umask)
        os.chdir(self.cwd)
        ends = ((self.stdin, 0), (self.stdout, 1), (self.stderr, 2))
        actions = [(os.POSIX_SPAWN_DUP2, end, fd) for end, fd in ends]
        defaults = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
        return os.posix_spawnp(
            self.argv[0], self.argv, self.env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=defaults
        )

    def discard(self) -> None:
        """Close every descriptor."""
        for fd in (self.stdin, self.stdout, self.stderr, self.feed, self.output, self.errors):
            if fd >= 0:
                os.close(fd)


def _pipe_in() -> tuple[int, int]:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    return theirs, ours


def _pipe_out() -> tuple[int, int]:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    return theirs, ours


def _terminal() -> tuple[int, int]:
    import pty
    import tty

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    return theirs, ours


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


class Host:
    """What this host has: a shell, and a way to make programs write line by line."""

    def __init__(self) -> None:
        self.home = os.path.expanduser("~")
        bash = next((path for path in ("/bin/bash", "/usr/bin/bash") if os.access(path, os.X_OK)), "")
        self.shell = bash or "/bin/sh"
        # bash would read .bashrc again, believing to be started by sshd.
        self.shell_options = ["--norc"] if bash else []
        self._preload: str | None = None

    def path(self, name: str) -> str:
        """Return a path as this host has it: from the home where it is not absolute."""
        return os.path.join(self.home, os.path.expanduser(name))

    def line_buffer(self, env: dict[str, str]) -> None:
        """Make programs that use C's stdio, and Python, write each line when it is complete."""
        if self._preload is None:
            self._preload = _stdbuf_library()
        if self._preload:
            env["_STDBUF_O"] = "L"
            env["LD_PRELOAD"] = ":".join(filter(None, (env.get("LD_PRELOAD"), self._preload)))
        env["PYTHONUNBUFFERED"] = "1"

    def about(self) -> dict[str, Any]:
        """Say what machine this is."""
        system = os.uname()
        return {
            "pid": os.getpid(),
            "hostname": system.nodename,
            "kernel": f"{system.sysname} {system.release}",
            "machine": system.machine,
            "cpu": cpu_model(),
            "cpus": len(os.sched_getaffinity(0)),
            "python": ".".join(map(str, sys.version_info[:3])),
        }


def _stdbuf_library() -> str:
    """Ask coreutils' stdbuf what it would preload; empty where there is none."""
    import subprocess

    try:
        done = subprocess.run(
            ["stdbuf", "-oL", "env"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line for line in os.fsdecode(done.stdout).split("\n") if line.startswith("LD_PRELOAD=")]
    return lines[0].split("=", 1)[1].split(":")[-1] if lines else ""


def cpu_model() -> str:
    """Return what the kernel calls this machine's processor; empty where it does not say."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = file.read(8192).decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")), "")
