"""When memory becomes scarce: whether a task may start, and which one must go."""

from __future__ import annotations

import time
from typing import Callable, Iterable, NamedTuple, Sequence

from roomful.agent import host
from roomful.agent.attempt import Attempt
from roomful.agent.tuning import Tuning

MIB = 1024 * 1024
#: How often memory is looked at while tasks run, and how often where it goes fast.
LOOK_SECONDS, SHORTEST_LOOK_SECONDS = 0.2, 0.01
#: Shares of the host's memory where the settings say 0.
ACCEPT_SHARE, EVICT_SHARE = 0.05, 0.025
#: A task that went back needs this many times what it was taken to need, so that it cannot come back for ever.
RAISE = 1.5
LEAST_RAISED_MIB = 64
#: A task alone on its host that has this share of the memory is what fills it; with less it is others.
ALONE_SHARE = 0.5


class Verdict(NamedTuple):
    """A task that must go: ``evicted`` (it waits again, with a raised need) or ``memory`` (its failure)."""

    attempt: Attempt
    fate: str
    detail: str
    #: What it is taken to need from now on.
    need_mib: int


class MemoryWatch:
    """Knows the free memory as it was at the last look."""

    def __init__(self, tuning: Tuning, cgroup: host.Cgroup) -> None:
        self._tuning = tuning
        self._cgroup = cgroup
        self.memory = host.memory(cgroup)
        self._looked = time.monotonic()
        self._kills = host.kernel_kills(cgroup)

    def look(self, now: float) -> float:
        """Measure; return the seconds until the next look, fewer where memory goes fast."""
        before, self.memory = self.memory.free, host.memory(self._cgroup)
        a_second = (before - self.memory.free) / max(now - self._looked, 0.001)
        self._looked = now
        left = self.memory.free - self._evict_below
        if a_second <= 0:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, left / a_second / 2))

    def kernel_has_killed(self) -> bool:
        """Tell whether the kernel has killed a process for memory since this was last asked."""
        before, self._kills = self._kills, host.kernel_kills(self._cgroup)
        return self._kills > before

    @property
    def _evict_below(self) -> float:
        return self._tuning["memory_evict"] or self.memory.total * EVICT_SHARE

    @property
    def free_mib(self) -> int:
        """MiB that could be had without swapping."""
        return self.memory.free // MIB

    def refusal(self) -> str:
        """Say why no task may start now; empty: it may."""
        least = self._tuning["memory_accept"] or self.memory.total * ACCEPT_SHARE
        if self.memory.free >= least:
            return ""
        return f"{self.free_mib} MiB of memory are free, {int(least) // MIB} needed to start a task"

    def verdict(self, running: Iterable[Attempt], orphans: Callable[[Attempt], Sequence[int]]) -> Verdict | None:
        """Choose who must go, if anyone: the newest; nobody while one is on its way out."""
        if self.memory.free >= self._evict_below:
            return None
        attempts = sorted(running, key=lambda attempt: attempt.started)
        if not attempts or any(attempt.fate for attempt in attempts):
            return None
        newest = attempts[-1]
        has_mib, total_mib = newest.tree_memory(orphans(newest)) // MIB, self.memory.total // MIB
        detail = f"it had {has_mib} MiB, and {self.free_mib} of {total_mib} MiB were free"
        return self._judge(newest, has_mib, len(attempts) == 1, detail)

    def verdict_on_killed(self, attempt: Attempt, alone: bool) -> Verdict:
        """Tell what becomes of a task that the kernel has killed before we could stop one."""
        has_mib = attempt.usage.ru_maxrss // 1024
        return self._judge(attempt, has_mib, alone, f"it had {has_mib} MiB when the kernel ran out of memory")

    def _judge(self, attempt: Attempt, has_mib: int, alone: bool, detail: str) -> Verdict:
        total_mib = self.memory.total // MIB
        if alone and (has_mib >= total_mib * ALONE_SHARE or attempt.needs.memory_mib >= total_mib):
            return Verdict(attempt, "memory", detail, has_mib)
        need = max(has_mib, int(attempt.needs.memory_mib * RAISE), LEAST_RAISED_MIB)
        return Verdict(attempt, "evicted", detail, need)
