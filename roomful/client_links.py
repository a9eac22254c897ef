"""The clients' links as the controller sees them: the folder they lead to, what the keeper must know, their end."""

from __future__ import annotations

import contextlib
import hashlib
import queue as queues
import secrets
import threading
from collections.abc import Iterator
from typing import Any

from roomful.agent.private import SOCKET_PATH_BYTES
from roomful.errors import RoomfulError
from roomful.hosts import Host
from roomful.openssh import NETNS_DIRECTORY, ssh_options
from roomful.outcome import HostFailure
from roomful.server import Server
from roomful.server_access import Access
from roomful.settings import Settings
from roomful.shipping import Landing
from roomful.ssh import HostConnection
from roomful.state import ProjectState

#: Longest part of a folder's name that a host gives: the socket in it must stay within the kernel's limit.
KEY_LENGTH = 20
#: Longest name of a socket in a client's folder.
LONGEST_SOCKET = "/link-00000000.sock"


def run_directory(host: Host, settings: Settings) -> str:
    """Return the client's folder for sockets, agent and spool; ``{uid}`` stands for the account's number there.

    The host is in its name: hosts may share the file system that it is on.
    """
    key = host.key
    if len(key) > KEY_LENGTH:
        key = f"{key[: KEY_LENGTH - 9]}-{hashlib.sha256(host.label.encode()).hexdigest()[:8]}"
    base = settings.client_directory or f"/tmp/roomful-{{uid}}/{ProjectState(settings).cluster_name}"
    return f"{base.rstrip('/')}/{key}"


def check_length(landing: Landing) -> None:
    """Refuse a folder in which the path of a link's socket would be too long for the kernel; raises HostFailure."""
    if len((landing.directory + LONGEST_SOCKET).encode()) > SOCKET_PATH_BYTES:
        raise HostFailure("error", f"set roomful.client_directory to a shorter path than {landing.directory}")


def link_record(connection: HostConnection, settings: Settings, landing: Landing, access: Access) -> dict[str, Any]:
    """Return what the keeper needs for its link to this host (see ``keeper_link.link_argv``)."""
    host = connection.entry
    record: dict[str, Any] = {"directory": landing.directory, "generation": secrets.token_hex(8)}
    if not access.on:
        # Always with the way into a lab's network, even if this process is in there: the keeper may not be.
        prefix = ["nsenter", f"--net={NETNS_DIRECTORY / host.netns}", "--"] if host.netns else []
        return {**record, "ssh": [*prefix, "ssh", *ssh_options(host, settings)], "name": host.name}
    # Another machine with its own ~/.ssh: it gets the address as we know it, and the key that we have checked.
    endpoint = connection.endpoint
    assert endpoint is not None
    key = connection.transport.get_remote_server_key()
    alias = f"roomful-{host.key}"
    known_hosts = f"{access.directory}/known_hosts"
    plain = Host(endpoint.host, endpoint.user, endpoint.port)
    own = settings.replace(
        ssh_config="/dev/null/none", identity_file="", user="", gateway="", accept_new_host_keys=False
    )
    words = [
        "ssh",
        "-o",
        f"UserKnownHostsFile={known_hosts}",
        "-o",
        f"HostKeyAlias={alias}",
        *ssh_options(plain, own),
    ]
    return {**record, "ssh": words, "name": endpoint.host, "host_key": f"{alias} {key.get_name()} {key.get_base64()}"}


class Unlinker:
    """Takes clients out of the keeper's record, all that are ready at a time: for a remote server each is a trip."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._requests: queues.SimpleQueue[tuple[str, threading.Event] | None] = queues.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="unlinker")
        self._error: RoomfulError | None = None

    def __enter__(self) -> Unlinker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join()
        if self._error:
            raise self._error

    def remove(self, label: str) -> None:
        """Return when the keeper has been told to drop its link to this client."""
        event = threading.Event()
        self._requests.put((label, event))
        event.wait(60.0)

    def _run(self) -> None:
        for batch in self._batches():
            try:
                self._server.change_clients(remove=[label for label, _ in batch])
            except RoomfulError as error:
                self._error = error
            for _, event in batch:
                event.set()

    def _batches(self) -> Iterator[list[tuple[str, threading.Event]]]:
        while (first := self._requests.get()) is not None:
            batch = [first]
            ended = False
            with contextlib.suppress(queues.Empty):
                while True:
                    item = self._requests.get_nowait()
                    if item is None:
                        ended = True
                        break
                    batch.append(item)
            yield batch
            if ended:
                return
