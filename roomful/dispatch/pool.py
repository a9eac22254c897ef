"""The dispatcher's hosts: kept connected, asked for their load, and chosen from."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roomful.hosts import Host
from roomful.multiplex import HostCommands
from roomful.outcome import HostFailure, Outcome
from roomful.settings import Settings
from roomful.warm import WarmHosts

from .choice import Limits, Score, choose, why_none
from .heartbeats import Heartbeats
from .load import PERIOD_SECONDS, HostLoad, Report, VirtualLoad

#: Pauses before a host that was lost or could not be reached is tried again, in seconds; the last one stays.
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
#: A host whose agent was heard within this time need not be asked: agents beat every 2 s. Older, and it is asked, so
#: that a report is there before the last one is too old to count.
HEARD_SECONDS = 2 * PERIOD_SECONDS
#: How often is looked whom to ask or to connect: thrice a period, so that a host that is asked because its agent has
#: fallen silent has a second left to answer.
LOOK_SECONDS = PERIOD_SECONDS / 3
#: State of a host whose first connection is neither there nor given up.
NOT_YET = "not connected yet"
#: Who wants to see all hosts waits for those that are slower than the first one to report at most so much longer.
GATHER_SECONDS = 2.0


class NoHost(Exception):
    """Say why no host can be chosen."""


@dataclass
class Seat:
    """What is known of one host."""

    host: Host
    commands: HostCommands | None = None
    report: Report | None = None
    virtual: VirtualLoad = field(default_factory=VirtualLoad)
    #: Why it could not be connected; empty before the first try has ended.
    failure: str = ""
    connecting: bool = False
    tries: int = 0
    next_try: float = 0.0
    turn: int = 0
    #: When it is to be asked again.
    next_ask: float = 0.0

    def told(self, now: float) -> bool:
        """Whether an agent there tells its load anyway."""
        return self.report is not None and self.report.source == "agent" and now - self.report.at <= HEARD_SECONDS

    def seen(self, now: float) -> HostLoad:
        """Return the host as the choice sees it."""
        alive = self.commands is not None and self.commands.alive
        return HostLoad(
            host=self.host,
            report=self.report,
            virtual=self.virtual.value(now),
            ours=self.virtual.running,
            recent=self.virtual.recent(now),
            age=now - self.report.at if self.report else math.inf,
            unusable="" if alive else self.failure or NOT_YET,
            turn=self.turn,
        )


@dataclass(frozen=True)
class Place:
    """A host that was chosen for one command; give it back with `Pool.leave`."""

    host: Host
    commands: HostCommands
    since: float


class Pool:
    """All hosts of one dispatcher. Use it as a context manager."""

    def __init__(self, hosts: Sequence[Host], settings: Settings, score: Score) -> None:
        self._seats = {host.label: Seat(host) for host in hosts}
        self._score = score
        # When a host is tried again is for `PAUSES` to say.
        self._warm = WarmHosts(settings, retry_seconds=0.0)
        self._heartbeats = Heartbeats(settings, self._heard)
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._turns = 0
        #: When the first host reported.
        self._first_report = math.inf

    def __enter__(self) -> Pool:
        threading.Thread(target=self._look_after, daemon=True, name="loads").start()
        self._heartbeats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._heartbeats.close()
        self._warm.close()

    def rows(self) -> list[dict[str, Any]]:
        """Return every host as it is seen now, the best first, for tables and JSON."""
        with self._changed:
            now = time.monotonic()
            seen = [seat.seen(now) for seat in self._seats.values()]
        scored = [(load, self._score(load) if load.report else math.inf) for load in seen]
        scored.sort(key=lambda pair: (bool(pair[0].unusable), not pair[0].fresh, pair[1], pair[0].turn))
        return [as_row(load, score) for load, score in scored]

    def settle(self, seconds: float) -> None:
        """Wait until the first host has reported, or all have failed."""
        with self._changed:
            self._changed.wait_for(self._settled, timeout=seconds)

    def gather(self) -> None:
        """Wait until each host has reported or failed, at most `GATHER_SECONDS` after the very first report."""
        with self._changed:
            left = self._first_report + GATHER_SECONDS - time.monotonic()
            self._changed.wait_for(self._gathered, timeout=min(max(left, 0.0), GATHER_SECONDS))

    def _gathered(self) -> bool:
        return all(seat.report or seat.failure for seat in self._seats.values())

    def _settled(self) -> bool:
        return any(seat.report for seat in self._seats.values()) or all(seat.failure for seat in self._seats.values())

    def take(self, limits: Limits) -> Place:
        """Choose a host for a command that is sent there at once. Raises NoHost."""
        with self._changed:
            seat = self._choose(limits)
            now = time.monotonic()
            seat.virtual.sent(now)
            assert seat.commands is not None
            return Place(seat.host, seat.commands, now)

    def leave(self, place: Place) -> None:
        """Say that the command has ended."""
        with self._changed:
            self._seats[place.host.label].virtual.ended(place.since, time.monotonic())

    def promise(self, limits: Limits) -> Host:
        """Name the best host to somebody who will use it without us. Raises NoHost."""
        with self._changed:
            seat = self._choose(limits)
            seat.virtual.promised(time.monotonic())
            return seat.host

    def _choose(self, limits: Limits) -> Seat:
        now = time.monotonic()
        seen = [seat.seen(now) for seat in self._seats.values()]
        chosen = choose(seen, self._score, limits)
        if chosen is None:
            raise NoHost(why_none(seen, limits))
        seat = self._seats[chosen.host.label]
        self._turns += 1
        seat.turn = self._turns
        return seat

    # --- connections and reports ---

    def _look_after(self) -> None:
        while True:
            now = time.monotonic()
            with self._changed:
                missing = []
                for seat in self._seats.values():
                    if seat.commands is not None and not seat.commands.alive:
                        lost = seat.commands.failure or HostFailure("lost")
                        seat.commands, seat.report = None, None
                        seat.failure, seat.next_try = str(lost), now + PAUSES[0]
                    if seat.commands is None and not seat.connecting and seat.next_try <= now:
                        seat.connecting = True
                        missing.append(seat)
                asked = []
                for seat in self._seats.values():
                    if seat.commands and seat.next_ask <= now and not seat.told(now):
                        # Half a look earlier than a period: the look after that would be late.
                        seat.next_ask = now + PERIOD_SECONDS - LOOK_SECONDS / 2
                        asked.append(seat.commands)
            if missing:
                threading.Thread(target=self._connect, args=(missing,), daemon=True, name="connect").start()
            for commands in asked:
                commands.ask_load()
            if self._closed.wait(LOOK_SECONDS):
                return

    def _connect(self, seats: Sequence[Seat]) -> None:
        # WarmHosts dials them all at once, so that a dead host holds up no other.
        self._warm.connect([seat.host for seat in seats], self._connected)

    def _connected(self, outcome: Outcome[HostCommands]) -> None:
        seat = self._seats[outcome.host.label]
        commands = outcome.value
        with self._changed:
            seat.connecting = False
            seat.commands = commands
            if commands is None:
                pause = PAUSES[min(seat.tries, len(PAUSES) - 1)]
                seat.tries += 1
                seat.next_try = time.monotonic() + pause
                seat.failure = f"{outcome.reason}: {outcome.detail}" if outcome.detail else str(outcome.reason)
            else:
                seat.tries, seat.failure = 0, ""
            self._changed.notify_all()
        if commands is not None:
            commands.on_load = lambda said: self._reported(seat, said)
            commands.ask_load()

    def _reported(self, seat: Seat, said: Mapping[str, Any]) -> None:
        now = time.monotonic()
        with self._changed, contextlib.suppress(ValueError):
            seat.report = Report.of(said, now)
            seat.virtual.reported(now)
            self._first_report = min(self._first_report, now)
            self._changed.notify_all()

    def _heard(self, reports: Mapping[str, Report]) -> None:
        now = time.monotonic()
        with self._changed:
            for label, report in reports.items():
                seat = self._seats.get(label)
                # Only what we are connected to can be used; its launcher may have said something newer.
                if seat and seat.commands and (seat.report is None or report.at > seat.report.at):
                    seat.report = report
                    seat.virtual.reported(now)
                    self._first_report = min(self._first_report, now)
            self._changed.notify_all()


def as_row(load: HostLoad, score: float) -> dict[str, Any]:
    """Return what is told about a host."""
    report = dataclasses.asdict(load.report) if load.report else dict.fromkeys(Report.__dataclass_fields__)
    report.pop("at")
    return {
        "host": load.host.label,
        **report,
        "load_weight": load.host.load_weight,
        "memory_weight": load.host.memory_weight,
        "virtual_load": round(load.virtual, 3),
        "ours": load.ours,
        "age": None if load.age == math.inf else round(load.age, 2),
        "score": round(score, 4) if math.isfinite(score) else None,
        "unusable": load.unusable or ("" if load.fresh else "no fresh report of its load"),
    }
