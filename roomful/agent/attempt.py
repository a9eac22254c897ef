"""One attempt at a task on this host: its process, its output, its end."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import stat
import sys
import time
from typing import Any, Mapping, NamedTuple, Sequence

from roomful.agent.capture import Capture
from roomful.agent.pipes import Pipes
from roomful.agent.processes import descendants, freeze, memory_of, send, send_group, thaw
from roomful.agent.report import Report
from roomful.agent.task import TaskClass, TaskSpec

_FUNCTION = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*)(?:\s+(.*))?$", re.DOTALL)
#: Runs MODULE:FUNCTION from the workdir with JSON arguments; what it returns is written as JSON.
_CALL = """\
import importlib, json, sys
sys.path.insert(0, "")
module, _, function = sys.argv[1].partition(":")
given = json.loads(sys.argv[2])
sys.argv = [module]
called = getattr(importlib.import_module(module), function)
if isinstance(given, dict):
    result = called(**given)
else:
    result = called(*given) if isinstance(given, list) else called(given)
if result is not None:
    print(json.dumps(result))
"""
#: Python ignores these; a task gets them as a shell would have given them.
_DEFAULT_SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGCHLD")]


class Claimed(NamedTuple):
    """A task that the queue has handed to us."""

    task_id: int
    attempt: int
    spec: TaskSpec
    #: What it takes of the host, as the queue counts it.
    needs: TaskClass
    #: On our monotonic clock.
    claimed: float


def command_line(spec: TaskSpec) -> list[bytes]:
    """Return the argv that runs a task; raises ValueError with a sentence."""
    if spec.kind == "shell":
        return [b"/bin/sh", b"-c", _bytes(spec.command)]
    python = os.fsencode(sys.executable)
    call = _FUNCTION.match(spec.command.strip())
    if call:
        arguments = (call.group(2) or "[]").strip()
        try:
            json.loads(arguments)
        except ValueError as error:
            raise ValueError(f"the arguments are not JSON: {error}") from None
        return [python, b"-c", _CALL.encode(), _bytes(call.group(1)), _bytes(arguments)]
    return [python, *(_bytes(word) for word in shlex.split(spec.command))]


def clean_environment() -> dict[bytes, bytes]:
    """Return the environment that tasks start from: ours without what is the agent's or the login's alone."""
    dropped = (b"ROOMFUL_", b"SSH_", b"INVOKE_")
    return {name: value for name, value in os.environb.items() if not name.startswith(dropped)}


class Attempt:
    """A running attempt. ``fate`` says why we end it, where we do."""

    def __init__(
        self, claimed: Claimed, slot: int, environment: Mapping[bytes, bytes], workdir: str, base: str, pipes: Pipes
    ) -> None:
        """Start it; raises OSError or ValueError if it cannot be started. ``base`` names files for large outputs."""
        self.task_id = claimed.task_id
        self.number = claimed.attempt
        self.spec = claimed.spec
        self.needs = claimed.needs
        self.slot = slot
        #: ``timeout``, ``stopped``, ``evicted``, ``memory``, ``revoked``; empty: it ends by itself.
        self.fate = ""
        self.detail = ""
        self.memory_mib = 0
        #: Since when it stands still, while somebody is at the console.
        self.suspended: float | None = None
        self._freeze_again = 0.0
        #: When SIGTERM becomes SIGKILL.
        self.kill_at: float | None = None
        self.status: int | None = None
        self.usage: Any = None
        self.ended = 0.0
        argv = command_line(self.spec)
        self.host = os.fsdecode(environment.get(b"ROOMFUL_HOST", b""))
        variables = dict(environment)
        for name, value in self.spec.env.items():
            variables[_bytes(name)] = _bytes(value)
        variables[b"ROOMFUL_TASK_ID"] = b"%d" % self.task_id
        variables[b"ROOMFUL_ATTEMPT"] = b"%d" % self.number
        variables[b"ROOMFUL_SLOT"] = b"%d" % slot
        # Only this thread starts processes, so the folder can be ours for a moment.
        os.chdir(os.path.join(workdir, self.spec.cwd) if self.spec.cwd else workdir)
        opened: list[int] = []
        reading: list[int] = []
        try:
            if self.spec.stdin:
                path = _bytes(self.spec.stdin)
                if not stat.S_ISREG(os.stat(path).st_mode):
                    # Such as a pipe: it is the task that waits until somebody writes, not the agent.
                    argv = [b"/bin/sh", b"-c", b'exec "$@" <"$0"', os.path.join(b".", path), *argv]
                    path = os.fsencode(os.devnull)
                stdin = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                opened.append(stdin)
            else:
                stdin = _nothing()
            for _ in ("stdout", "stderr"):
                read, write = pipes.take()
                reading.append(read)
                opened.append(write)
            out_write, err_write = opened[-2:]
            actions = [
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, out_write, 1),
                (os.POSIX_SPAWN_DUP2, err_write, 2),
            ]
            self.started = time.monotonic()
            self.pid = _spawn(argv, variables, actions)
        except BaseException:
            for fd in reading:
                pipes.give(fd, False)
            raise
        finally:
            # Nobody is kept from unmounting what we do not use.
            os.chdir("/")
            for fd in opened:
                os.close(fd)
        self.stdout = Capture(reading[0], base + ".stdout", pipes)
        self.stderr = Capture(reading[1], base + ".stderr", pipes)
        self.deadline = None if self.spec.timeout is None else self.started + self.spec.timeout

    def end(self, fate: str, grace: float, detail: str = "") -> None:
        """Let it end: SIGTERM now, SIGKILL to everything of it after ``grace`` seconds."""
        if self.fate and self.kill_at is not None:
            # Being taken away outranks every other reason; else the first reason stands.
            if fate == "revoked":
                self.fate = fate
            return
        self.fate, self.detail = fate, detail
        self.kill_at = time.monotonic() + grace
        send_group(self.pid, signal.SIGTERM)
        send_group(self.pid, signal.SIGCONT)

    def end_at_once(self, fate: str, detail: str, memory_mib: int) -> None:
        """Kill it now: memory runs out."""
        self.fate, self.detail, self.memory_mib = fate, detail, memory_mib
        self.kill_at = 0.0
        self.kill()

    def suspend(self, now: float, orphans: Sequence[int] = ()) -> None:
        """Let all of it stand still; repeated, it stops what has been started or woken up since."""
        if self.suspended is None:
            self.suspended = now
        elif now < self._freeze_again:
            return
        self._freeze_again = now + 1.0
        freeze([self.pid, *orphans])

    def resume(self, now: float, orphans: Sequence[int] = ()) -> None:
        """Let it go on; the time between does not count for its time limit."""
        if self.suspended is not None:
            if self.deadline is not None:
                self.deadline += now - self.suspended
            self.suspended = None
            thaw([self.pid, *orphans])

    def tree_memory(self, orphans: Sequence[int] = ()) -> int:
        """Return the memory of all its processes, in bytes; ``orphans`` are those that hang on us."""
        return memory_of(descendants([self.pid, *orphans]))

    def kill(self) -> None:
        """Kill its group and everything below it; its pid must not have been collected yet."""
        for pid in descendants([self.pid]):
            send(pid, signal.SIGKILL)
        send_group(self.pid, signal.SIGKILL)

    def collected(self, status: int, usage: Any) -> None:
        """Note how its first process ended."""
        self.status, self.usage, self.ended = status, usage, time.monotonic()

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL, or its shell says so of what it ran."""
        assert self.status is not None
        killed = os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL
        return killed or (os.WIFEXITED(self.status) and os.WEXITSTATUS(self.status) == 128 + signal.SIGKILL)

    def report(self) -> Report:
        """Close its streams and tell how it ended."""
        assert self.status is not None
        detail: dict[str, Any] = {}
        state = "done"
        if os.WIFSIGNALED(self.status):
            detail["signal"] = os.WTERMSIG(self.status)
            detail["reason"] = f"signal {detail['signal']}"
        else:
            detail["exit"] = os.WEXITSTATUS(self.status)
            if detail["exit"]:
                detail["reason"] = f"exit {detail['exit']}"
        if self.fate == "timeout":
            detail["reason"], detail["detail"] = self.fate, self.detail
        elif self.fate == "memory":
            detail["reason"], detail["detail"] = f"needs more memory than {self.host} has", self.detail
        if "reason" in detail:
            state = "failed"
        detail["memory"] = self.usage.ru_maxrss * 1024
        detail["cpu"] = round(self.usage.ru_utime + self.usage.ru_stime, 3)
        for stream in (self.stdout, self.stderr):
            if stream.trouble:
                detail["detail"] = f"{detail.get('detail', '')} output cut off: {stream.trouble}".strip()
        return Report(
            self.task_id, self.number, state, self.ended, self.ended - self.started,
            self.stdout.close(), self.stderr.close(), detail,
        )  # fmt: skip

    def discard(self) -> None:
        """Close its streams and keep nothing."""
        self.stdout.discard()
        self.stderr.discard()


def failed_to_start(claimed: Claimed, error: Exception) -> Report:
    """Tell that a task could not even be started here."""
    now = time.monotonic()
    detail = {"reason": "error", "detail": f"could not be started: {error}"}
    return Report(claimed.task_id, claimed.attempt, "failed", now, 0.0, b"", b"", detail)


@functools.lru_cache(maxsize=None)
def _nothing() -> int:
    """Return /dev/null, open for reading; the same for all tasks."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _spawn(argv: list[bytes], variables: Mapping[bytes, bytes], actions: list[tuple[int, int, int]]) -> int:
    """Start a process in a group of its own, with no signal blocked or ignored.

    Not in a session of its own: each would be given as much of a CPU as the owner's, however nice it is (see
    ``Manners``), and making one takes the kernel as long as a tenth of a short task.
    """
    return os.posix_spawn(
        argv[0], argv, variables, file_actions=actions, setpgroup=0, setsigmask=[], setsigdef=_DEFAULT_SIGNALS
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
