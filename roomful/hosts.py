"""Hosts, host lists and host specifications.

A host list is a text file, one host a line::

    host [load_weight [memory_weight]] [key=value ...]   # comment

``host`` is ``name``, ``user@name`` or ``user@name:port``. A plain list of names and dsh's cluster description file
are both host lists. Attributes that Roomful itself reads: ``address`` (connect here instead of to the name),
``ssh_config`` (OpenSSH client configuration for this host), ``netns`` (Linux network namespace from which it is
reached, as for the lab's hosts). All others are the user's own.
"""

from __future__ import annotations

import difflib
import errno
import ipaddress
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from roomful.errors import HostListError, InputError, RoomfulError
from roomful.settings import Settings

#: RFC 1123 names, and the underscore that real networks use; never a leading "-" (it would read as an option).
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
#: A network interface's name or number, after the % of an IPv6 address.
SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,255}")
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
#: More hosts than this from one specification is a typing error (``node[1-99999999]``).
MOST_HOSTS = 100_000


@dataclass(frozen=True)
class Host:
    """One machine as its list describes it. Weights are relative: 2.0 means half as fast, as in dsh."""

    name: str
    user: str | None = None
    port: int | None = None
    load_weight: float = 1.0
    memory_weight: float = 1.0
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def label(self) -> str:
        """The host as it was written: ``name``, ``user@name`` or ``user@name:port``."""
        user = f"{self.user}@" if self.user else ""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{user}{name}:{self.port}" if self.port else f"{user}{self.name}"

    @property
    def key(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.label)

    @property
    def netns(self) -> str | None:
        """The network namespace from which this host is reached, if it is a lab's."""
        return self.attributes.get("netns")


@dataclass(frozen=True)
class ListLine:
    """One line of a host list: its text without the line's end, and the host on it if any."""

    number: int
    text: str
    host: Host | None


@dataclass(frozen=True)
class HostList:
    """A host list file as it was read, every line kept as it stands."""

    path: Path
    lines: tuple[ListLine, ...]

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts, in the file's order."""
        return tuple(line.host for line in self.lines if line.host)

    def text_with(self, keep: Callable[[Host], bool]) -> str:
        """Return the file's text with only those host lines that ``keep`` accepts; comments stay."""
        kept = [line.text for line in self.lines if line.host is None or keep(line.host)]
        return "".join(f"{text}\n" for text in kept)


def parse_host(text: str, where: str = "--hosts") -> Host:
    """Read ``name``, ``user@name``, ``user@name:port`` or ``[IPv6]:port``.

    Raises HostListError.
    """
    user, at, rest = text.rpartition("@")
    if at and not USER_NAME.fullmatch(user):
        raise HostListError(f"bad user name in {text!r}", where=where, fix="write user@host or user@host:port")
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(.*))?", rest)
    if bracketed:
        name, port_text = bracketed[1], bracketed[2]
    elif rest.count(":") > 1:
        name, port_text = rest, None
    else:
        name, _, after = rest.partition(":")
        port_text = after if ":" in rest else None
    if not is_host_name(name):
        why = "it starts with '-'" if name.startswith("-") else ""
        fix = "a host is a name (letters, digits, '-', '.', '_') or an IP address"
        raise HostListError(f"bad host name {name!r}", where=where, why=why, fix=fix)
    port = None
    if port_text is not None:
        if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
            raise HostListError(
                f"bad port {port_text!r} in {text!r}", where=where, fix="write a port from 1 to 65535"
            )
        port = int(port_text)
    return Host(name=name, user=user or None, port=port)


def is_host_name(name: str) -> bool:
    """Tell whether ``name`` is safe and valid as a host name or an IP address."""
    address, percent, scope = name.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return len(name) <= 253 and bool(HOST_NAME.fullmatch(name))
    # Python takes anything for a scope; this goes into the command lines of shells (ProxyCommand, rsync).
    return not percent or (":" in address and SCOPE.fullmatch(scope) is not None)


def parse_line(text: str, where: str) -> Host | None:
    """Read one line of a host list; None for an empty or comment line.

    Raises HostListError.
    """
    if text.endswith("\r"):
        file = where.rpartition(":")[0] or "FILE"
        fix = f"convert the file: sed -i 's/\\r$//' {shlex.quote(file)}"
        raise HostListError("the line ends with a carriage return (a Windows line end)", where=where, fix=fix)
    words = re.sub(r"(^|\s)#.*", "", text).split()
    if not words:
        return None
    host = parse_host(words[0], where)
    weights: list[float] = []
    attributes: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if equals:
            if not _ATTRIBUTE.fullmatch(key) or key in attributes:
                why = "given twice" if key in attributes else ""
                raise HostListError(f"bad attribute {word!r}", where=where, why=why, fix="write key=value")
            attributes[key] = value
        elif attributes or len(weights) == 2:
            fix = "a line is: host [load_weight [memory_weight]] [key=value ...]"
            raise HostListError(f"unexpected {word!r}", where=where, fix=fix)
        else:
            weights.append(_weight(word, where))
    if "address" in attributes and not is_host_name(attributes["address"]):
        raise HostListError(
            f"bad address {attributes['address']!r}", where=where, fix="write a name or an IP address"
        )
    load, memory = (*weights, 1.0, 1.0)[:2]
    return Host(host.name, host.user, host.port, load, memory, MappingProxyType(attributes))


def _weight(word: str, where: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise HostListError(f"bad weight {word!r}", where=where, fix="write a number above 0, such as 2.0")
    return weight


def read_host_list(path: Path) -> HostList:
    """Read a host list file.

    Raises HostListError with file and line for a line that cannot be read, a host that is there twice, or no host.
    """
    try:
        # Not read_text(): it would turn a Windows line end into a plain one. Windows programs mark UTF-8 by a BOM.
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise HostListError("not a text file", where=str(path), why=str(error)) from error
    except OSError as error:
        raise HostListError("cannot read the host list", where=str(path), why=error.strerror or str(error)) from error
    lines: list[ListLine] = []
    seen: dict[str, int] = {}
    # splitlines() would hide a carriage return and split at form feeds.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        where = f"{path}:{number}"
        host = parse_line(line, where)
        if host:
            if host.label in seen:
                why = f"it is on line {seen[host.label]} already"
                raise HostListError(f"host {host.label!r} twice", where=where, why=why, fix="remove one of them")
            seen[host.label] = number
        lines.append(ListLine(number, line, host))
    if not seen:
        raise HostListError("the host list is empty", where=str(path), fix="write one host a line")
    return HostList(path, tuple(lines))


def format_host(host: Host) -> str:
    """Write a host as a line of a host list."""
    words = [host.label]
    if (host.load_weight, host.memory_weight) != (1.0, 1.0):
        words += [f"{host.load_weight:g}", f"{host.memory_weight:g}"]
    return " ".join([*words, *(f"{key}={value}" for key, value in host.attributes.items())])


def write_text_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is either the old one or the whole new one.

    Raises RoomfulError where it cannot be written.
    """
    try:
        _write_text_atomically(path, text, mode)
    except OSError as error:
        why = error.strerror or str(error)
        raise RoomfulError("cannot write this file", where=str(path), why=why) from error


def _write_text_atomically(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_host_list(path: Path, hosts: Iterable[Host], comments: Sequence[str] = ()) -> None:
    """Write a new host list file atomically, comments first."""
    lines = [*(f"# {comment}" for comment in comments), *(format_host(host) for host in hosts)]
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))


def list_path(name: str, settings: Settings) -> Path:
    """Return the file of the host list ``name`` (a name, or a path that ends in ``.txt`` or holds a ``/``).

    Raises InputError for a name that is no file name.
    """
    if "/" in name or name.endswith(".txt"):
        return Path(name).expanduser()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"bad host list name {name!r}", fix="use letters, digits, '-', '_' and '.'")
    return settings.path(settings.host_lists) / f"{name}.txt"


def output_path(name: str, settings: Settings) -> Path:
    """Return the file of a host list that is to be written when all is done.

    Raises InputError, as `list_path` does, and where it could not be written: nobody should wait to learn that.
    """
    path = list_path(name, settings)
    folder = path.parent
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where, fix = str(path), "choose another --output"
        raise InputError(
            "cannot write a host list", where=where, why=error.strerror or str(error), fix=fix
        ) from error
    return path


def known_lists(settings: Settings) -> dict[str, Path]:
    """Return the host lists of the project by name."""
    return {path.stem: path for path in sorted(settings.path(settings.host_lists).glob("*.txt"))}


def resolve(spec: str, settings: Settings, exclude: str = "") -> tuple[Host, ...]:
    """Turn a host specification into hosts, each once, in the order given.

    A specification is a comma list of: a list's name (``n7``), a path of a list, ``user@host:port``, or a range
    (``node[01-20]``; ClusterShell's syntax). A host that stands in one of the project's lists comes with its weights
    and attributes from there. ``exclude`` takes the same words.

    Raises HostListError or InputError when it means nothing, or nothing is left.
    """
    spec = spec or settings.hosts
    if not spec.strip():
        lists = ", ".join(known_lists(settings)) or "none yet"
        raise InputError("no hosts given", fix=f"give --hosts NAME (lists here: {lists})")
    chosen = {host.label: host for host in _expand(spec, settings, "--hosts")}
    for host in _expand(exclude, settings, "--exclude") if exclude else ():
        chosen.pop(host.label, None)
    if not chosen:
        raise InputError(f"--exclude {exclude!r} leaves no host of {spec!r}")
    return tuple(chosen.values())


def _expand(spec: str, settings: Settings, where: str) -> list[Host]:
    lists = known_lists(settings)
    listed: dict[str, Host] | None = None
    hosts: list[Host] = []
    for item in re.split(r",(?![^\[]*\])", spec):
        word = item.strip()
        if not word:
            raise InputError(f"an empty word in {spec!r}", where=where, fix="separate hosts with single commas")
        if word in lists:
            hosts += read_host_list(lists[word]).hosts
            continue
        if "/" in word or word.endswith(".txt"):
            hosts += read_host_list(Path(word).expanduser()).hosts
            continue
        if listed is None:
            listed = _hosts_of(lists.values())
        for name in _names(word, where):
            if name in listed:
                hosts.append(listed[name])
                continue
            if name == word:
                _refuse_mistyped_list(name, lists, where)
            hosts.append(parse_host(name, where))
    return hosts


def _hosts_of(paths: Iterable[Path]) -> dict[str, Host]:
    """Every host of the project's lists by label; a list that cannot be read is met when it is named itself."""
    found: dict[str, Host] = {}
    for path in paths:
        try:
            hosts = read_host_list(path).hosts
        except HostListError:
            continue
        for host in hosts:
            found.setdefault(host.label, host)
    return found


def _refuse_mistyped_list(name: str, lists: Mapping[str, Path], where: str) -> None:
    if re.search(r"[.@:]", name):
        return
    near = difflib.get_close_matches(name, lists, n=1)
    if near:
        fix = f"did you mean {near[0]}? (a host of that name: write {name}:22)"
        raise InputError(f"no host list {name!r}", where=where, fix=fix)


def _names(word: str, where: str) -> list[str]:
    """Unfold the ranges in one word of a specification."""
    if not re.search(r"\[[0-9]", word) or re.search(r"\[[0-9A-Fa-f:.]*:", word):
        return [word]
    # Imported here: it costs 60 ms, and most specifications are a list's name.
    from ClusterShell.NodeSet import NodeSet, NodeSetException

    head, _, tail = word.rpartition("]")
    user, at, nodes = head.rpartition("@")
    port = tail if re.match(r":[^\[]*$", tail) else ""
    nodes = f"{nodes}]{tail.removesuffix(port)}"
    try:
        unfolded = NodeSet(nodes, resolver=None)
        if len(unfolded) > MOST_HOSTS:
            raise InputError(f"{word!r} is {len(unfolded):,} hosts", where=where, fix="write a smaller range")
        return [f"{user}{at}{name}{port}" for name in unfolded]
    except NodeSetException as error:
        raise InputError(f"bad range {word!r}", where=where, why=str(error), fix="write node[01-20]") from None
