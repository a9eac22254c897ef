"""Loads that the agents of a running cluster report anyway: read from the queue, all hosts in one question."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from roomful.errors import RoomfulError
from roomful.records import ClientRecord
from roomful.settings import Settings
from roomful.state import ProjectState

from .load import PERIOD_SECONDS, Report

if TYPE_CHECKING:
    from roomful.server import Server

#: Agents beat every 2 s; what they said is fetched soon enough that it is never taken for too old (HEARD_SECONDS).
LOOK_SECONDS = 0.5
#: A server that could not be reached is tried again after so many seconds: where it is remote that is an SSH login.
RETRY_SECONDS = 30.0
#: ... and one on this machine, where it costs next to nothing, after so many.
RETRY_HERE_SECONDS = PERIOD_SECONDS


class Heartbeats:
    """Looks into the project's queue twice a second, over one connection, and hands on what live agents said."""

    def __init__(self, settings: Settings, heard: Callable[[Mapping[str, Report]], None]) -> None:
        """``heard`` is told each host's report by its label, from a thread of ours."""
        self._settings = settings
        self._heard = heard
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, whether or not a server runs yet."""
        threading.Thread(target=self._run, daemon=True, name="heartbeats").start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self) -> None:
        # A server of the user's own (server_url) has no agents.
        while not self._settings.server_url and not self._closed.is_set():
            pause = RETRY_HERE_SECONDS
            if (ProjectState(self._settings).directory / "server.json").exists():
                # What speaks to Valkey takes time and memory to import, and most dispatchers never need it.
                from roomful.server import Server

                # No server, no heartbeats: the hosts are asked themselves meanwhile.
                with contextlib.suppress(RoomfulError, OSError, ValueError):
                    server = Server.of(self._settings)
                    pause = RETRY_SECONDS if server.where else RETRY_HERE_SECONDS
                    self._listen(server)
            self._closed.wait(pause)

    def _listen(self, server: Server) -> None:
        with server.queue() as queue:
            while not self._closed.wait(LOOK_SECONDS):
                clients = [client for client in queue.clients() if client.state in ("live", "draining")]
                now = time.monotonic()
                self._heard({client.host: report_of(client, now) for client in clients})


def report_of(client: ClientRecord, now: float) -> Report:
    """Return what an agent's heartbeat says of its host; ``now`` in seconds of our monotonic clock.

    Tasks that began a moment ago are not in a load average yet: each that the agent runs counts as one.
    """
    tasks = client.running - client.waiting
    return Report(
        load=max(client.load, float(tasks)),
        running=client.runnable,
        cpus=client.cpus,
        memory=client.memory_bytes,
        memory_free=client.memory_free_bytes,
        at=now - client.seconds_since_heartbeat,
        source="agent",
    )
