"""The queue's server: Valkey and the keeper, on this machine or on a host reached over SSH.

What is done there is in ``roomful.agent.server``, called here where this machine is the server, and by SSH where
another one is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roomful.agent import private
from roomful.agent.server import handle
from roomful.agent.valkey import passwords_in
from roomful.bundle import build_bundle
from roomful.errors import InputError, ServerError
from roomful.hosts import Host, resolve
from roomful.outcome import HostFailure
from roomful.queue import Queue
from roomful.server_access import START_IT, Access, tunnel
from roomful.settings import Settings
from roomful.shipping import Landing, bundled_valkey, project_bundle, reply_in, ship_agent
from roomful.state import ProjectState

STATE_VERSION = 1
#: The keeper's settings, as they were when the server was started.
KEEPER_SETTINGS = ("heartbeat_seconds", "lease_seconds", "agent_silence_seconds")


@dataclass(frozen=True)
class ServerStatus:
    """How the server is. Sizes are in bytes, pids on its own machine."""

    running: bool
    #: ``stopped``, ``starting``, ``loading`` (reads its data), ``ready``, ``restarting``, ``not answering``,
    #: ``cannot write`` (the disk is full).
    state: str
    #: Label of the host, empty for this machine.
    on: str
    directory: str
    socket: str = ""
    #: Name and version of the server program.
    program: str = ""
    why: str = ""
    uptime_seconds: float = 0.0
    memory_bytes: int = 0
    data_bytes: int = 0
    connections: int = 0
    pids: Mapping[str, int | None] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    #: The append-only file: enabled, last_write, last_rewrite, size_bytes, waits_for_disk.
    aof: Mapping[str, Any] = field(default_factory=dict)
    #: Tasks in each state.
    tasks: Mapping[str, int] = field(default_factory=dict)
    #: Label of a client to its link: state (waiting, connecting, up, down), reason, detail, attempts.
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Said by a start: it runs the code of another version of Roomful.
    outdated: bool = False


@dataclass(frozen=True)
class Stopped:
    """What a stop did."""

    #: False: it did not run.
    stopped: bool
    forgotten: bool
    on: str
    directory: str
    #: Size of the data that stays.
    data_bytes: int
    #: Clients that have agents, which now wait for the server to come back.
    clients: int = 0


class Server:
    """The server of one project; ``host`` is None where it is this machine."""

    def __init__(self, settings: Settings, host: Host | None) -> None:
        self.settings = settings
        self.host = host
        self.state = ProjectState(settings)

    @classmethod
    def of(cls, settings: Settings) -> Server:
        """Return the project's server: where it was started last, else where the settings say."""
        known = ProjectState(settings).read("server", STATE_VERSION)
        on = str(known["on"]) if known else settings.server_on
        return cls(settings, server_host(on, settings))

    @property
    def where(self) -> str:
        """Label of its host; empty for this machine."""
        return self.host.label if self.host else ""

    def start(self) -> tuple[ServerStatus, bool]:
        """Start it unless it runs; returns its status once it answers, and whether it ran already.

        With ``server_url`` no Valkey is started: a door leads there, through which the clients' links go.
        Raises ServerError, with the reason from there.
        """
        known = self.state.read("server", STATE_VERSION)
        if known and known["on"] != self.where:
            other = Server(self.settings, server_host(str(known["on"]), self.settings))
            if other.status().running:
                fix = "stop it first: inv stop-server"
                raise ServerError(f"the server runs on {known['on'] or 'this machine'}", fix=fix)
        settings = {name: getattr(self.settings, name) for name in KEEPER_SETTINGS}
        reply = self._ask("start", settings=settings, upstream=self.settings.server_url)
        place = {"on": self.where, "directory": reply["directory"], "socket": reply["socket"]}
        place["zipapp"] = f"{reply['directory']}/{reply['zipapp']}"
        self.state.write("server", place, STATE_VERSION)
        return self._status_of(reply), bool(reply["already"])

    def stop(self, forget: bool = False) -> Stopped:
        """Stop it in order; its data stay unless ``forget``. No error if it does not run."""
        reply = self._ask("stop", forget=forget)
        if forget:
            self.state.forget("server")
        return Stopped(
            stopped=bool(reply["stopped"]),
            forgotten=bool(reply["forgotten"]),
            on=self.where,
            directory=str(reply["directory"]),
            data_bytes=int(reply["data_bytes"]),
            clients=int(reply["clients"]),
        )

    def status(self) -> ServerStatus:
        """Ask how it is; that it does not run is no error."""
        status = self._status_of(self._ask("status"))
        if status.state == "ready":
            with self.queue() as queue:
                counts = queue.counts()
            names = ("todo", "running", "done", "failed", "cancelled")
            status = dataclasses.replace(status, tasks={name: getattr(counts, name) for name in names})
        return status

    def change_clients(
        self, add: Mapping[str, Mapping[str, Any]] | None = None, remove: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Tell the keeper which clients to have links to (``roomful.agent.server.clients``); returns all labels."""
        reply = self._ask("clients", add=dict(add or {}), remove=list(remove))
        return tuple(reply["clients"])

    @contextlib.contextmanager
    def queue(self) -> Iterator[Queue]:
        """Connect to the queue for the time of a ``with`` block.

        Raises ServerError when the server does not run or does not answer.
        """
        cluster = self.state.cluster_name
        if self.settings.server_url and self.state.read("server", STATE_VERSION) is None:
            # Nobody has started a door to it: as long as there are no clients, none is needed.
            with Queue.connect(self.settings.server_url, cluster) as queue:
                yield queue
            return
        with self.access() as access, access.queue(cluster) as queue:
            yield queue

    @contextlib.contextmanager
    def access(self) -> Iterator[Access]:
        """Yield a way to Valkey that is open for the time of the ``with`` block.

        Raises ServerError when the server does not run.
        """
        if self.host is None:
            directory = self.state.server_directory
            plan = private.read_json(directory / "server.json")
            if plan is None:
                raise ServerError("the server does not run", fix=START_IT)
            supervised = private.Lock(directory / "lock").owner() is not None
            yield Access(str(plan["socket"]), str(directory), "", passwords_in(directory), supervised)
            return
        known = self.state.read("server", STATE_VERSION)
        if known is None or known["on"] != self.where:
            raise ServerError("the server does not run", where=self.where, fix=START_IT)
        with tunnel(self.host, self.settings, known) as access:
            yield access

    def _ask(self, verb: str, **more: Any) -> dict[str, Any]:
        request = {"verb": verb, "cluster": self.state.cluster_name, **more}
        if self.host is None:
            request["directory"] = str(self.state.server_directory)
            if verb == "start":
                bundled = bundled_valkey()
                request["zipapp"] = self._put_zipapp()
                request["candidates"] = [str(bundled)] if bundled else []
            return _checked(handle(request), "")
        from roomful.ssh import connect

        try:
            with connect(self.host, self.settings) as connection:
                folder = self.settings.server_directory or f"/var/tmp/roomful-{{uid}}/{self.state.cluster_name}"
                landing = ship_agent(connection, folder, project_bundle(self.state))
                request["directory"] = landing.directory

                def ask() -> dict[str, Any]:
                    argv = [landing.python, "-I", "-S", landing.zipapp, "server"]
                    done = connection.execute(argv, stdin=json.dumps(request).encode(), timeout=600)
                    return reply_in(done.stdout, done.stderr)

                reply = ask()
                if reply.get("refused", {}).get("code") == "no-program" and (valkey := _valkey_for(landing)):
                    connection.execute(["mkdir", "-p", "-m", "700", f"{landing.directory}/bin"])
                    connection.put_bytes(valkey.read_bytes(), f"{landing.directory}/bin/valkey-server", mode=0o700)
                    reply = ask()
                return _checked(reply, self.where)
        except HostFailure as failure:
            raise ServerError("cannot work on the server's host", where=self.where, why=str(failure)) from failure

    def _put_zipapp(self) -> str:
        """Write the program beside the data, where it outlives an upgrade of what started it."""
        directory = self.state.server_directory
        try:
            return str(build_bundle(private.private_directory(directory)).path)
        except private.Refusal as refusal:
            raise ServerError(refusal.fields["what"], where=refusal.fields["where"]) from None
        except OSError as error:
            why = error.strerror or str(error)
            raise ServerError("cannot write the server's folder", where=str(directory), why=why) from error

    def _status_of(self, reply: Mapping[str, Any]) -> ServerStatus:
        names = ("supervisor", "valkey", "keeper") if reply["running"] else ()
        return ServerStatus(
            running=bool(reply["running"]),
            state=str(reply["state"]),
            on=self.where,
            directory=str(reply["directory"]),
            socket=str(reply["socket"]),
            program=str(reply["program"]),
            why=str(reply.get("why", "")),
            uptime_seconds=float(reply.get("uptime_seconds", 0.0)),
            memory_bytes=int(reply.get("memory_bytes", 0)),
            data_bytes=int(reply["data_bytes"]),
            connections=int(reply.get("connections", 0)),
            pids={name: reply.get(name) for name in names},
            restarts={name: int(reply.get(f"{name}_restarts") or 0) for name in names[1:]},
            aof=dict(reply.get("aof", {})),
            links=dict(reply.get("links", {})),
            outdated=bool(reply.get("outdated")),
        )


def server_host(on: str, settings: Settings) -> Host | None:
    """Return the host that ``--on`` means; None for this machine.

    Raises InputError where it means several.
    """
    if on in ("", "localhost", "127.0.0.1"):
        return None
    hosts = resolve(on, settings)
    if len(hosts) != 1:
        raise InputError(f"{on!r} is {len(hosts)} hosts", where="--on", fix="name the one that is to be the server")
    return hosts[0]


@contextlib.contextmanager
def open_queue(settings: Settings) -> Iterator[Queue]:
    """Connect to the project's queue, wherever its server runs, for the time of a ``with`` block.

    Raises ServerError when it does not run ("the server does not run; start it with: inv start-server").
    """
    with Server.of(settings).queue() as queue:
        yield queue


def _checked(reply: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "ok" in reply:
        return dict(reply["ok"])
    refused = reply["refused"]
    place = ": ".join(part for part in (where, refused["where"]) if part)
    raise ServerError(refused["what"], where=place, why=refused["why"], fix=refused["fix"])


def _valkey_for(landing: Landing) -> Path | None:
    return bundled_valkey(landing.machine)
