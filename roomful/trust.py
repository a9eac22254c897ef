"""Look at the hosts' keys without logging in, and remember those that are unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful.errors import RoomfulError
from roomful.hosts import Host
from roomful.known_hosts import KnownHosts, PresentedKey, Verdict
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.ssh import HostConnection, HostGroup


@dataclass(frozen=True)
class Offer:
    """The key that a host presents, and the known_hosts files that were asked about it."""

    key: PresentedKey
    files: tuple[Path, ...]

    @property
    def is_new(self) -> bool:
        """Whether the key is unknown, and so can be remembered."""
        return self.key.verdict is Verdict.UNKNOWN


def look(
    hosts: Sequence[Host], settings: Settings, on_outcome: Callable[[Outcome[Offer]], None] | None = None
) -> Outcomes[Offer]:
    """Ask every host for its key; a changed or revoked one is a failure, with both fingerprints."""

    def work(connection: HostConnection) -> Offer:
        assert connection.endpoint is not None
        offer = Offer(connection.present_key(), connection.endpoint.known_hosts)
        if offer.key.verdict in (Verdict.CHANGED, Verdict.REVOKED):
            raise HostFailure("host-key", offer.key.warning)
        return offer

    return HostGroup(hosts, settings).each(work, on_outcome, log_in=False)


def remember(offers: Iterable[Offer]) -> int:
    """Add the keys that are unknown to known_hosts; returns how many lines were added.

    Raises RoomfulError where the file cannot be written.
    """
    files: dict[tuple[Path, ...], KnownHosts] = {}
    added = 0
    for offer in offers:
        known = files.setdefault(offer.files, KnownHosts(offer.files))
        # Somebody may have remembered, or two names may be one host.
        if known.judge(offer.key.name, offer.key.key_type, offer.key.key).verdict is Verdict.UNKNOWN:
            try:
                known.remember(offer.key.name, offer.key.key_type, offer.key.key)
            except OSError as error:
                raise RoomfulError("cannot write", where=str(offer.files[0]), why=error.strerror or "") from error
            added += 1
    return added
