"""Hosts that stay connected: one SSH connection and one launcher each, opened in parallel and kept alive."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from roomful.hosts import Host
from roomful.multiplex import CLOSING_SECONDS, HostCommands
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.ssh import HostConnection, fan_out

#: How often every host is told that the controller lives. A launcher takes 4 s of silence for the end.
PING_SECONDS = 1.0
#: A host that has not answered for so long is lost; its launcher has ended everything by then.
LOST_SECONDS = 12.0
#: A host that could not be reached is tried again after this time at the earliest: it costs one deadline, not many.
RETRY_SECONDS = 30.0


class WarmHosts:
    """A pool of warm connections; use it as a context manager.

    ``retry_seconds``: how long a host that could not be reached is not tried again (`RETRY_SECONDS`).
    """

    def __init__(self, settings: Settings, retry_seconds: float | None = None) -> None:
        self.settings = settings
        self.retry_seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        self._commands: dict[Host, HostCommands] = {}
        self._unreachable: dict[Host, tuple[float, Outcome[HostCommands]]] = {}
        self._changed = threading.Condition()
        self._groups: list[threading.Thread] = []
        self._closed = threading.Event()
        self._pinging: threading.Thread | None = None

    def __enter__(self) -> WarmHosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(
        self, hosts: Sequence[Host], on_outcome: Callable[[Outcome[Any]], None] | None = None
    ) -> Outcomes[HostCommands]:
        """Connect to the hosts that are not connected yet; returns one outcome a host, with its HostCommands."""
        begin = time.monotonic()
        outcomes: dict[Host, Outcome[HostCommands]] = {}
        missing: list[Host] = []

        def settle(outcome: Outcome[HostCommands]) -> None:
            with self._changed:
                if outcome.host not in outcomes:
                    outcomes[outcome.host] = outcome
                    if outcome.status == "unreachable" and outcome.host in missing:
                        self._unreachable[outcome.host] = (time.monotonic(), outcome)
                    self._changed.notify_all()
                    if on_outcome:
                        on_outcome(outcome)

        def work(connection: HostConnection) -> None:
            commands = HostCommands(connection)
            with self._changed:
                self._commands[connection.entry] = commands
            settle(Outcome(connection.entry, "ok", value=commands, seconds=time.monotonic() - begin))
            commands.serve()

        for host in dict.fromkeys(hosts):
            commands = self._commands.get(host)
            tried, outcome = self._unreachable.get(host, (float("-inf"), None))
            if commands and commands.alive:
                settle(Outcome(host, "ok", value=commands))
            elif outcome and time.monotonic() - tried < self.retry_seconds:
                settle(outcome)
            else:
                missing.append(host)
        if missing:
            self._start_group(missing, work, settle)
        with self._changed:
            while len(outcomes) < len(set(hosts)):
                self._changed.wait()
        return Outcomes(outcomes[host] for host in hosts)

    def _start_group(
        self,
        hosts: Sequence[Host],
        work: Callable[[HostConnection], None],
        settle: Callable[[Outcome[HostCommands]], None],
    ) -> None:
        # The fan-out lasts as long as its connections do: each host's thread of it reads what comes from there.
        settings = self.settings.replace(parallel=max(self.settings.parallel, len(hosts)))

        def group() -> None:
            fan_out(hosts, work, settings, lambda outcome: settle(_never_connected(outcome)))

        thread = threading.Thread(target=group, daemon=True, name="warm hosts")
        self._groups = [*(group for group in self._groups if group.is_alive()), thread]
        thread.start()
        if self._pinging is None:
            self._pinging = threading.Thread(target=self._ping, daemon=True, name="ping")
            self._pinging.start()

    def _ping(self) -> None:
        while not self._closed.wait(PING_SECONDS):
            with self._changed:
                commands = list(self._commands.values())
            for one in commands:
                if one.alive and one.silent_seconds > LOST_SECONDS:
                    # In a thread of its own: on a dead connection even closing may wait.
                    failure = HostFailure("lost", f"no word from the host for {LOST_SECONDS:g} s")
                    threading.Thread(target=one.abandon, args=(failure,), daemon=True, name="hang up").start()
                elif one.alive:
                    one.ping()

    def close(self) -> None:
        """End every command on every host, wait until nothing is left there, and hang up."""
        with self._changed:
            commands = list(self._commands.values())
        for one in commands:
            one.close()
        deadline = time.monotonic() + CLOSING_SECONDS
        with contextlib.suppress(KeyboardInterrupt):
            for thread in self._groups:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._closed.set()
        for one in commands:
            one.abandon()


def _never_connected(outcome: Outcome[None]) -> Outcome[HostCommands]:
    """The outcome of a host's thread; one that had been connected settled before, so this counts for no more."""
    if outcome.status == "ok":
        outcome = Outcome(outcome.host, "failed", "lost", "the connection ended", seconds=outcome.seconds)
    return Outcome(outcome.host, outcome.status, outcome.reason, outcome.detail, seconds=outcome.seconds)
