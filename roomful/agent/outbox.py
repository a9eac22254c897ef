"""What the queue is to be told, and what it is asked: in parcels, one of which is on its way at a time."""

from __future__ import annotations

from collections import deque
from typing import Sequence

from roomful.agent.attempt import Claimed
from roomful.agent.link import GiveBack, Parcel, Want
from roomful.agent.report import Report

#: Reports wait this long for company while there is something to run.
GATHER_SECONDS = 0.02
#: Reports in one parcel; their outputs are at most 128 KiB each.
MOST_REPORTS = 200


class Outbox:
    """Reports and tasks to give back, in the order of their ends."""

    def __init__(self) -> None:
        self._reports: deque[Report] = deque()
        self._give_backs: list[GiveBack] = []
        self._under_way: Parcel | None = None
        self._token = 0

    @property
    def busy(self) -> bool:
        """Whether a parcel is on its way."""
        return self._under_way is not None

    @property
    def empty(self) -> bool:
        """Whether everything has been told."""
        return not (self._under_way or self._reports or self._give_backs)

    @property
    def crowded(self) -> bool:
        """Whether the queue takes our reports more slowly than tasks end."""
        return len(self._reports) > 4 * MOST_REPORTS

    @property
    def due(self) -> float | None:
        """When the oldest report has waited for long enough; None: nothing waits that can go."""
        return self._reports[0].ended + GATHER_SECONDS if self._reports and not self.busy else None

    def report(self, *reports: Report) -> None:
        """Have ends told."""
        self._reports.extend(reports)

    def give_back(self, how: str, detail: str, tasks: Sequence[tuple[int, int, int]]) -> None:
        """Have tasks given back: see ``GiveBack``."""
        self._give_backs.append(GiveBack(how, detail, tasks))

    def release(self, waiting: Sequence[Claimed]) -> None:
        """Give back tasks that were never started."""
        self.give_back("released", "", [(claimed.task_id, claimed.attempt, 0) for claimed in waiting])

    def untold(self) -> set[tuple[int, int]]:
        """Return the attempts that have ended here, and that the queue may not know to have ended."""
        under_way = self._under_way.reports if self._under_way else []
        return {(report.task_id, report.attempt) for report in (*self._reports, *under_way)}

    def pack(self, want: Want | None, may_gather: bool, now: float) -> Parcel | None:
        """Make the next parcel; None if there is none, or if it may wait for company (``may_gather``) and does."""
        if self.busy or not (self._reports or self._give_backs or want):
            return None
        alone = may_gather and want is None and not self._give_backs
        if alone and len(self._reports) < MOST_REPORTS and now - self._reports[0].ended < GATHER_SECONDS:
            return None
        parcel = Parcel(give_backs=self._give_backs, want=want)
        self._give_backs = []
        while self._reports and len(parcel.reports) < MOST_REPORTS:
            parcel.reports.append(self._reports.popleft())
        if want is not None:
            self._token += 1
            parcel.token = self._token
        self._under_way = parcel
        return parcel

    def delivered(self) -> None:
        """Note that the parcel has come back with its answers."""
        self._under_way = None
