"""Servers and lists of them: what an experiment runs on."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, overload

from roomful.errors import InputError
from roomful.experiments.command import Command, handlers_of
from roomful.experiments.errors import ExperimentFailed
from roomful.experiments.interactive import StdinController
from roomful.experiments.logs import logger
from roomful.experiments.outcomes import ReturnCode
from roomful.experiments.session import Session
from roomful.hosts import Host, known_lists, parse_host, read_host_list, resolve
from roomful.remote_process import Launch
from roomful.settings import Settings

#: The settings of the run that is loading experiments; a project's own where none is.
loading_settings: ContextVar[Settings | None] = ContextVar("loading_settings", default=None)

#: Bytes of a file sent at a time.
CHUNK = 1 << 18

_SEND = """\
umask 077
target=$1
case $target in "~/"*) target=$HOME/${target#"~/"};; -*) target=./$target;; esac
[ -d "$target" ] && target=${target%/}/$4
part=$target.part.$$
trap 'rm -f "$part"' EXIT
cat > "$part" || exit 1
sum=$(sha256sum < "$part") || exit 1
[ "${sum%% *}" = "$3" ] || { echo "the checksum is wrong: ${sum%% *}, sent $3" >&2; exit 1; }
chmod "$2" "$part" && mv -f "$part" "$target"
"""


class Server:
    """A machine with an id, and any attributes: ``Server("node01", "10.0.0.1", numa_nodes=2).numa_nodes``.

    ``host`` is ``name``, ``user@name`` or ``user@name:port``; a name that stands in one of the project's host lists
    is reached as that line says. ``port`` 22 means: the port that ssh_config says, else 22.
    """

    id: str
    host: str
    port: int
    _directory: str = ""
    _session: Session | None = None
    _entry: Host | None = None

    # What experiment files give is not checked by types.
    def __init__(self, id: Any, host: Any, port: Any = 22, **attributes: Any) -> None:
        if not isinstance(id, str) or not id:
            raise InputError(f"bad server id {id!r}", fix="give a text such as 'node01'")
        where = f"server {id}"
        self.id = id
        self.host = str(host)
        parsed = parse_host(self.host, where)
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise InputError(f"bad port {port!r}", where=where, fix="write a port from 1 to 65535")
        self.port = parsed.port or port
        for name, value in attributes.items():
            if name.startswith("_"):
                raise InputError(f"bad attribute {name!r}", where=where, why="names that start with '_' are private")
            if hasattr(self, name):
                raise InputError(f"bad attribute {name!r}", where=where, why="a server has something of that name")
            setattr(self, name, value)

    @property
    def ip(self) -> str:
        """The host, as distexprunner calls it."""
        return self.host

    def __repr__(self) -> str:
        return f"<Server {self.id} at {self.host}>"

    def entry(self, settings: Settings) -> Host:
        """Return the host that this server is, with what the project's host lists say of it."""
        if self._entry is None:
            host = parse_host(self.host, f"server {self.id}")
            known = _listed(settings)
            listed = known.get(host.label) or known.get(host.name)
            port = self.port if self.port != 22 else None
            if listed:
                weights = (listed.load_weight, listed.memory_weight)
                host = Host(host.name, host.user or listed.user, port or listed.port, *weights, listed.attributes)
            else:
                host = Host(host.name, host.user, port)
            self._entry = host
        return self._entry

    def bind(self, session: Session | None, directory: str = "") -> None:
        """Make this server part of an experiment that begins or, with None, has ended."""
        self._session = session
        self._directory = directory

    def cd(self, directory: str) -> None:
        """Let the commands that follow run in ``directory``; ``~`` and relative paths start at the home there."""
        self._connected()
        self._directory = _text(directory, "directory")

    def run_cmd(  # noqa: PLR0913  # distexprunner's parameters
        self,
        cmd: str,
        stdout: Any = None,
        stderr: Any = None,
        stdin: StdinController | str | bytes | None = None,
        env: Mapping[str, object] | None = None,
        timeout: float | None = None,
        terminal: bool = False,
    ) -> Command:
        """Start a command in a shell there and return its handle.

        ``stdout`` and ``stderr`` take one handler or several, which are called with every line as it is written.
        ``stdin``: text that is sent and closed, or a StdinController. ``env`` adds variables. ``timeout`` in seconds.
        ``terminal`` gives it a terminal as stdout, for programs that otherwise hold lines back.
        """
        session = self._connected()
        if timeout is not None and not timeout > 0:
            raise InputError(f"bad timeout {timeout!r}", where=f"server {self.id}", fix="give seconds above 0")
        if stdin is not None and not isinstance(stdin, StdinController | str | bytes):
            raise InputError(f"bad stdin {stdin!r}", where=f"server {self.id}", fix="give text or a StdinController")
        text = _text(cmd, "command")
        command = Command(
            session, self.id, text, stdout=handlers_of(stdout, "stdout"), stderr=handlers_of(stderr, "stderr")
        )
        variables = {
            _text(name, "variable"): _text(str(value), "variable", True) for name, value in (env or {}).items()
        }
        launch = Launch(
            text, self._directory, variables, line_buffered=True, terminal=terminal, stdout=stdout is not None
        )
        command.launch(launch, timeout)
        if isinstance(stdin, StdinController):
            stdin.add(self.id, text, command)
        elif stdin is not None:
            command.async_stdin(stdin, close=True)
        return command

    def send_file(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file there with its mode; a SHA-256 checksum is verified before it takes its name.

        ``target`` may be a folder; relative paths start at the current directory there.
        """
        session = self._connected()
        path = Path(source)
        try:
            mode = path.stat().st_mode & 0o7777
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise InputError("cannot read the file", where=str(path), why=error.strerror or str(error)) from error
        arguments = [_text(target, "target"), f"{mode:o}", digest.hexdigest(), path.name]
        command = Command(session, self.id, f"send_file {path} {target}", stdout=(), stderr=())
        launch = Launch(["sh", "-c", _SEND, "send", *arguments], self._directory, stdout=False)
        command.launch(launch, None)
        with path.open("rb") as file:
            while (chunk := file.read(CHUNK)) and command.process.write(chunk):
                pass
        command.process.close_stdin()
        if command.wait() != 0:
            raise command.failure()
        logger.info("%s: sent %s to %s, sha256 %s", self.id, path, target, digest.hexdigest())

    def _connected(self) -> Session:
        if self._session is None:
            raise ExperimentFailed("not connected", where=f"server {self.id}", fix="use it in its experiment")
        if self.id not in self._session.hosts:
            raise ExperimentFailed("there is no connection to it", where=f"server {self.id}")
        return self._session


Selector = int | str | slice | tuple[Any, ...] | Callable[[Server], Any]


class ServerList:
    """Servers with unique ids, in order; ``working_directory`` is where their commands run unless they ``cd``."""

    def __init__(
        self, *servers: Server | ServerList | Iterable[Server | ServerList], working_directory: str | None = None
    ) -> None:
        self._servers = tuple(_flat(servers))
        self.working_directory = working_directory
        self._by_id: dict[str, Server] = {}
        for server in self._servers:
            if server.id in self._by_id:
                raise InputError(f"server id {server.id!r} twice", fix="give every server of a list its own id")
            self._by_id[server.id] = server

    @classmethod
    def from_hosts(cls, hosts: str = "", exclude: str = "", working_directory: str | None = None) -> ServerList:
        """Make servers of a Roomful host specification (``"n7"``, ``"node[01-04]"``); attributes come along.

        A server's id is the host's name, or all of its label where two hosts share a name.
        """
        settings = loading_settings.get() or Settings()
        found = resolve(hosts, settings, exclude)
        names = [host.name for host in found]
        servers = []
        for host in found:
            attributes: dict[str, Any] = {re.sub(r"\W", "_", key): value for key, value in host.attributes.items()}
            attributes |= {"load_weight": host.load_weight, "memory_weight": host.memory_weight}
            label = host.name if names.count(host.name) == 1 else host.label
            if taken := attributes.keys() & {"id", "host", "port"}:
                why = "a server has something of that name"
                raise InputError(f"bad attribute {min(taken)!r}", where=f"server {label}", why=why)
            server = Server(label, host.label, **attributes)
            server._entry = host
            servers.append(server)
        return cls(servers, working_directory=working_directory)

    def cd(self, directory: str = "~/") -> None:
        """Let the commands that follow run in ``directory``, on every server."""
        for server in self._servers:
            server.cd(directory)

    @property
    def unique_by_ip(self) -> ServerList:
        """The first server of each host."""
        first = {server.host: server for server in reversed(self._servers)}
        return self._some(server for server in self._servers if first[server.host] is server)

    def _some(self, servers: Iterable[Server]) -> ServerList:
        return ServerList(servers, working_directory=self.working_directory)

    @overload
    def __getitem__(self, key: int | str) -> Server: ...
    @overload
    def __getitem__(self, key: slice | tuple[Any, ...] | Callable[[Server], Any]) -> ServerList: ...
    def __getitem__(self, key: Selector) -> Server | ServerList:
        """Select by index, id, slice, predicate, or a tuple of any of these."""
        if isinstance(key, tuple):
            chosen = [self[item] for item in key]
            return self._some(_flat(chosen))
        if isinstance(key, slice):
            return self._some(self._servers[key])
        if isinstance(key, str):
            return self._named(key)
        if isinstance(key, int) and not isinstance(key, bool):
            try:
                return self._servers[key]
            except IndexError:
                raise InputError(f"no server number {key}", why=f"the list has {len(self)}") from None
        if callable(key):
            return self._some(filter(key, self._servers))
        fix = "select by index, id, slice, function, or a tuple of these"
        raise InputError(f"cannot select servers by {key!r}", fix=fix)

    def _named(self, key: str) -> Server:
        if key not in self._by_id:
            near = difflib.get_close_matches(key, self._by_id, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self._by_id) or 'none'}"
            raise InputError(f"no server {key!r}", fix=fix)
        return self._by_id[key]

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    def __repr__(self) -> str:
        return f"<ServerList {', '.join(self._by_id)}>"


def _flat(items: Iterable[Any]) -> Iterator[Server]:
    for item in items:
        if isinstance(item, Server):
            yield item
        elif isinstance(item, Iterable) and not isinstance(item, str | bytes):
            yield from _flat(item)
        else:
            raise InputError(f"not a server: {item!r}", fix="give Server(id, host) objects or lists of them")


def _listed(settings: Settings) -> dict[str, Host]:
    found: dict[str, Host] = {}
    for path in known_lists(settings).values():
        try:
            hosts = read_host_list(path).hosts
        except InputError:
            continue  # met when the list itself is named
        for host in hosts:
            found.setdefault(host.label, host)
    return found


def _text(value: Any, name: str, empty: bool = False) -> str:
    if not isinstance(value, str) or (not value and not empty) or "\0" in value:
        raise InputError(f"bad {name} {value!r}", fix="give a text without NUL characters")
    return value


__all__ = ["ReturnCode", "Server", "ServerList", "loading_settings"]
