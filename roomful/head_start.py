"""Dial hosts before the SSH layer is loaded: loading it takes about as long as their servers take to speak."""

from __future__ import annotations

from collections.abc import Sequence

from roomful.dialer import Dialer
from roomful.endpoint import endpoint_of
from roomful.hosts import Host
from roomful.settings import Settings


class HeadStart:
    """Where hosts are reached, and a dialer that is on its way to them."""

    def __init__(self, hosts: Sequence[Host], settings: Settings) -> None:
        """Send the first packet to every host; raises InputError for an ssh_config that makes no sense."""
        self.endpoints = tuple(endpoint_of(host, settings) for host in hosts)
        self.dialer: Dialer | None = None
        addresses = [endpoint.address for endpoint in self.endpoints]
        # Hosts behind a gateway are dialled through one login there, which must come first.
        if not any(address.proxy for address in addresses):
            self.dialer = Dialer(addresses, settings.connect_timeout_seconds)
            self.dialer.begin()


__all__ = ["HeadStart"]
