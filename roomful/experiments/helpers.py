"""Small tools for writing experiments."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from roomful.experiments.command import Command
from roomful.experiments.outcomes import ReturnCode
from roomful.experiments.servers import Server
from roomful.experiments.session import current

T = TypeVar("T")

#: Put it before a command to run that in gdb.
GDB = "gdb -quiet --ex run --args"


def SOCKET_BIND(nodes: object) -> str:  # distexprunner's name
    """Return what to put before a command to bind it and its memory to NUMA nodes (``0``, ``0,1``)."""
    return f"numactl --cpunodebind={nodes} --membind={nodes}"


def sleep(delay: float) -> None:
    """Wait for so many seconds; handlers are called meanwhile, and a failing command ends the wait."""
    session = current()
    if session is None:
        time.sleep(delay)
    else:
        session.wait_for(lambda: False, delay)


def counter(start: int = 0, step: int = 1) -> Iterator[int]:
    """Count: ``c = counter()``, ``next(c) == 0``, ``next(c) == 1``."""
    return itertools.count(start, step)


class IterClassGen(Generic[T]):
    """Make as many instances of a class as are asked for by ``next``, and keep them to iterate over."""

    def __init__(self, cls: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._make = functools.partial(cls, *args, **kwargs)
        self._instances: list[T] = []

    def __next__(self) -> T:
        instance = self._make()
        self._instances.append(instance)
        return instance

    def __getitem__(self, key: int) -> T:
        return self._instances[key]

    def __iter__(self) -> Iterator[T]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)


def any_failed(cmds: Iterable[Command], poll_interval: float = 1) -> int | ReturnCode | bool:
    """Wait until a command fails, and return its exit code; False when all have succeeded.

    ``poll_interval`` is distexprunner's: the end of a command is noticed at once.
    """
    del poll_interval
    commands = list(cmds)

    def results() -> list[int | ReturnCode | None]:
        return [command.wait(block=False) for command in commands]

    def failed() -> list[int | ReturnCode]:
        return [result for result in results() if result is not None and result != 0]

    def ready() -> bool:
        return bool(failed()) or all(result is not None for result in results())

    session = current()
    if session:
        session.wait_for(ready)
    while not ready():
        time.sleep(0.05)
    return failed()[0] if failed() else False


class ProcessGroup:
    """Several commands that are waited for together."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def add(self, cmd: Command) -> None:
        """Take in a command."""
        self._commands.append(cmd)

    def wait(self, verify_rc: bool = True) -> list[int | ReturnCode | None]:
        """Wait for all and return their exit codes; raises CommandFailed for one other than 0 with ``verify_rc``."""
        results = [command.wait() for command in self._commands]
        if verify_rc:
            for command, result in zip(self._commands, results, strict=True):
                if result != 0:
                    raise command.failure()
        return results

    def has_timeout(self) -> bool:
        """Wait for all, and tell whether one of them took too long."""
        return any(result is ReturnCode.TIMEOUT for result in self.wait(verify_rc=False))

    def signal(self, sig: int | str) -> None:
        """Send a signal to all."""
        for command in self._commands:
            command.signal(sig)

    def kill(self) -> None:
        """Kill all that still run."""
        for command in self._commands:
            if command.running:
                command.kill()

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands)

    def __getitem__(self, key: int) -> Command:
        return self._commands[key]

    def __len__(self) -> int:
        return len(self._commands)


def run_on_all(
    servers: Iterable[Server], cmd: str, verify_rc: bool = True, env: Mapping[str, object] | None = None
) -> list[int | ReturnCode | None]:
    """Run a command on every server at once and wait; the exit codes come in the servers' order."""
    group = ProcessGroup()
    for server in servers:
        group.add(server.run_cmd(cmd, env=env))
    return group.wait(verify_rc)
