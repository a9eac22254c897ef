"""What became of each host in a fan-out: every host ends in exactly one named outcome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, overload

from roomful.errors import InputError
from roomful.hosts import Host

T = TypeVar("T")

Status = Literal["ok", "failed", "unreachable"]

#: Reasons that mean: the host was never reached or never let us in, so nothing was done there.
UNREACHABLE_REASONS = frozenset({"dns", "timeout", "refused", "no-route", "host-key", "auth", "protocol"})


class HostFailure(Exception):
    """End the work on one host with a reason from DESIGN.md's list and a sentence of detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unheard(Exception):
    """End a fan-out: whoever listens to the hosts cannot, which is no failure of theirs."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one host.

    ``reason`` is one of: dns, timeout, refused, no-route, host-key, auth, protocol (these mean unreachable),
    command-timeout, no-python, no-program, noisy-shell, disk-full, quota, lost, interrupted, error, ``exit N``,
    ``signal N``; from deploy also in-the-way, differs; from collect also missing-output; from doctor also home,
    home-hangs, shell, shell-hangs; from authorize also not-admitted.
    ``seconds`` is wall time from the start of the fan-out to this outcome.
    """

    host: Host
    status: Status
    reason: str | None = None
    detail: str = ""
    value: T | None = None
    seconds: float = 0.0


class Outcomes(Sequence[Outcome[T]]):
    """The outcomes of a fan-out, one a host, in the order of the host list."""

    def __init__(self, outcomes: Iterable[Outcome[T]]) -> None:
        self._outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome[T]]: ...
    def __getitem__(self, index: int | slice) -> Outcome[T] | Sequence[Outcome[T]]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome[T]]:
        return iter(self._outcomes)

    def with_status(self, status: Status) -> tuple[Outcome[T], ...]:
        """Select the outcomes with this status."""
        return tuple(outcome for outcome in self._outcomes if outcome.status == status)

    @property
    def ok(self) -> tuple[Outcome[T], ...]:
        """The hosts where the work was done."""
        return self.with_status("ok")

    @property
    def failed(self) -> tuple[Outcome[T], ...]:
        """The hosts that were reached and where the work failed."""
        return self.with_status("failed")

    @property
    def unreachable(self) -> tuple[Outcome[T], ...]:
        """The hosts that were never reached, or never let us in."""
        return self.with_status("unreachable")

    @property
    def not_ok(self) -> tuple[Outcome[T], ...]:
        """All hosts that did not succeed."""
        return tuple(outcome for outcome in self._outcomes if outcome.status != "ok")

    def reasons(self) -> Counter[str]:
        """Count the failures by reason."""
        return Counter(outcome.reason or "error" for outcome in self.not_ok)

    def tolerated(self, max_failed: str = "0") -> bool:
        """Tell whether at most ``max_failed`` (``N`` hosts or ``P%`` of them) did not succeed."""
        return len(self.not_ok) <= allowed_failures(max_failed, len(self))


def allowed_failures(max_failed: str, total: int) -> int:
    """Turn ``--max-failed`` (``3`` or ``10%``) into a number of hosts, rounded down.

    Raises InputError for anything else.
    """
    match = re.fullmatch(r"(\d+)(%?)", str(max_failed).strip())
    if not match or (match[2] and int(match[1]) > 100):
        raise InputError(f"bad --max-failed {max_failed!r}", fix="give a number of hosts (3) or a share (10%)")
    return int(match[1]) * total // 100 if match[2] else int(match[1])
