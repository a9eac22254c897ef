"""How many tasks to ask the queue for, and when."""

from __future__ import annotations

from typing import Collection

from roomful.agent.ledger import Ledger
from roomful.agent.link import Parcel, Want

#: Tasks are taken ahead for as long as the queue might keep us waiting, if they end that soon.
AHEAD_SECONDS = 0.25
MOST_AHEAD = 256
#: The safety net under the wake-ups: an idle agent asks again after this.
ASK_AGAIN_SECONDS = 10.0


class Appetite:
    """Follows how long tasks take and how soon the queue answers."""

    def __init__(self) -> None:
        self._mean_seconds = 1.0
        self._round_trip = 0.0
        self._dry_until = 0.0

    def stir(self) -> None:
        """Ask again: there may be work, or room for more."""
        self._dry_until = 0.0

    def ended(self, seconds: float) -> None:
        """Note how long a task took, sooner believed where it was short."""
        more = seconds - self._mean_seconds
        self._mean_seconds += more * (0.1 if more > 0 else 0.5)
        self.stir()

    def took_too_many(self) -> None:
        """Note that tasks taken ahead have not been started in time."""
        self._mean_seconds = max(self._mean_seconds, 1.0)

    def answered(self, parcel: Parcel, now: float) -> None:
        """Note what the queue had for us."""
        self._round_trip += (parcel.seconds - self._round_trip) * 0.2
        want = parcel.want
        if want is not None and len(parcel.claimed) < want.slots + want.ahead and parcel.status != "more":
            self._dry_until = now + ASK_AGAIN_SECONDS

    def want(self, now: float, ledger: Ledger, running: Collection[int], waiting: int, free_mib: int) -> Want | None:
        """Return what to ask for; None: nothing now. ``free_mib`` is the memory that the host has free."""
        if now < self._dry_until:
            return None
        ahead = 0
        soon = AHEAD_SECONDS + 4 * self._round_trip
        if self._mean_seconds < soon:
            ahead = min(MOST_AHEAD, int(max(1, len(running)) * soon / max(self._mean_seconds, 0.0005)))
        slots = ledger.free_slots if ledger.free_cpu and not waiting else 0
        if not slots and waiting >= ahead / 2:
            return None
        memory = ledger.free_memory
        if running or waiting:
            # One that asks for all that the host has gets it when nothing else runs.
            memory = min(memory, free_mib)
        return Want(slots, max(0, ahead - waiting), ledger.free_cpu, memory)
