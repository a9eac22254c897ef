"""How busy a host is: what it reported, and what we have just sent there and it cannot have reported yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roomful.hosts import Host

#: Every host is asked so often, as in dsh 0.1.3.
PERIOD_SECONDS = 1.5
#: A host that has missed so many reports is not chosen.
MOST_MISSED = 3
#: The kernel's one-minute load average: what runs is in it by the share 1 - exp(-t/60) after t seconds.
AVERAGE_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """What a host said of itself, ``at`` seconds of our monotonic clock."""

    load: float
    running: int
    cpus: float
    memory: int
    memory_free: int
    at: float
    #: Who said it: the ``launcher`` that the dispatcher asks, or the cluster's ``agent`` there.
    source: str = "launcher"

    @classmethod
    def of(cls, said: Mapping[str, Any], at: float) -> Report:
        """Read what a launcher says. Raises ValueError for what makes no sense."""
        try:
            load, running, cpus = float(said["load"]), int(said["running"]), float(said["cpus"])
            memory, free = int(said["memory"]), int(said["memory_free"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no load report: {said!r}") from error
        if not (load >= 0 and cpus > 0 and math.isfinite(load) and math.isfinite(cpus)):
            raise ValueError(f"no load report: {said!r}")
        return cls(load, running, cpus, memory, free, at)


@dataclass
class VirtualLoad:
    """The load of what was sent to one host, as far as its reports cannot show it.

    Three parts. Every command that runs counts 1 from the moment it is sent. One that has ended still counts
    ``exp(-age / PERIOD_SECONDS)``, age from its start: a burst of commands shorter than a report's period spreads by
    it, and a command of some seconds leaves nothing behind. And what the host's load average shows of ours already is
    taken off: the average of our own number of running commands, made as the kernel makes its own, as it was at the
    host's last report.
    """

    running: int = 0
    _since: float = 0.0
    _recent: float = 0.0
    _shown: float = 0.0
    _shown_at_report: float = 0.0

    def sent(self, now: float) -> None:
        """Count a command that is sent."""
        self._advance(now)
        self.running += 1

    def ended(self, started: float, now: float) -> None:
        """Count a command that has ended."""
        self._advance(now)
        self.running -= 1
        self._recent += math.exp(-(now - started) / PERIOD_SECONDS)

    def promised(self, now: float) -> None:
        """Count a command that somebody else was told to send there."""
        self._advance(now)
        self._recent += 1.0

    def reported(self, now: float) -> None:
        """Note that the host has reported."""
        self._advance(now)
        self._shown_at_report = self._shown

    def value(self, now: float) -> float:
        """Return the virtual load; below 0 where the host's average still shows what has ended."""
        self._advance(now)
        return self.running + self._recent - self._shown_at_report

    def recent(self, now: float) -> float:
        """Return the part of it that is commands that have ended."""
        self._advance(now)
        return self._recent

    def _advance(self, now: float) -> None:
        elapsed = max(0.0, now - self._since)
        self._since = max(now, self._since)
        self._recent *= math.exp(-elapsed / PERIOD_SECONDS)
        faded = math.exp(-elapsed / AVERAGE_SECONDS)
        self._shown = self._shown * faded + self.running * (1.0 - faded)


@dataclass(frozen=True)
class HostLoad:
    """A host at one moment, as the choice sees it."""

    host: Host
    #: None: it never reported.
    report: Report | None = None
    #: Load that is on its way, and commands of ours that run there.
    virtual: float = 0.0
    ours: int = 0
    #: The part of the virtual load that is commands that have ended already.
    recent: float = 0.0
    #: Seconds since the last report.
    age: float = math.inf
    #: Why it cannot be used: a reason and a sentence; empty where it can.
    unusable: str = ""
    #: Rises with every choice of this host: among equals the one that waited longest is next.
    turn: int = field(default=0, compare=False)

    @property
    def load(self) -> float:
        """The load that it has: what was reported and what is on its way."""
        return self._load(self.virtual)

    @property
    def load_per_cpu(self) -> float:
        """Load a CPU, times the host's load weight; ``--max-load`` is compared with it.

        Commands that have ended spread the next ones, but they are no load that could be too much.
        """
        load = self._load(self.virtual - self.recent)
        return self.host.load_weight * load / (self.report.cpus if self.report else 1.0)

    def _load(self, virtual: float) -> float:
        reported = self.report.load if self.report else 0.0
        # What runs for us is there for certain, whatever an average of a minute says.
        return max(float(self.ours), reported + virtual, 0.0)

    @property
    def fresh(self) -> bool:
        """Whether it has reported within three periods."""
        return self.report is not None and self.age <= MOST_MISSED * PERIOD_SECONDS
