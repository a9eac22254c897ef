"""Bring a host list up to date with what a discovery found; what people wrote in it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful.hosts import Host, ListLine, format_host, parse_line, read_host_list, write_text_atomically

#: Looks up the addresses of names, all at once.
LookUp = Callable[[Iterable[str]], Mapping[str, frozenset[str]]]


@dataclass(frozen=True)
class ListUpdate:
    """The new text of a list, and the labels of hosts added, kept, missing (listed but not found) and removed."""

    path: Path
    text: str
    added: tuple[str, ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many hosts the list has now."""
        return len(self.added) + len(self.kept) + len(self.missing)

    def as_json(self) -> dict[str, Any]:
        """Return the update as ``--json`` shows it."""
        return {
            "path": str(self.path),
            "added": self.added,
            "kept": self.kept,
            "missing": self.missing,
            "removed": self.removed,
        }

    def write(self) -> None:
        """Write the list, atomically; not if it would stay as it is."""
        if self.added or self.removed:
            write_text_atomically(self.path, self.text)


def read_lines(path: Path) -> tuple[ListLine, ...]:
    """Read the lines of a list that need not exist, nor have a host.

    Raises HostListError.
    """
    if not path.exists():
        return ()
    lines = path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n")
    if any(parse_line(text, f"{path}:{number}") for number, text in enumerate(lines, 1)):
        return read_host_list(path).lines
    return tuple(ListLine(number, text, None) for number, text in enumerate(lines, 1) if text or len(lines) > 1)


def plan_update(
    path: Path, lines: Sequence[ListLine], found: Mapping[str, Host], look_up: LookUp, *, prune: bool = False
) -> ListUpdate:
    """Plan the update of the list at ``path``, whose lines are given, with the hosts found, given by address.

    Lines of hosts that are on the list stay as they are, new hosts are added at its end. A host that is on the list
    but was not found stays too, unless ``prune``.
    """
    listed = [line.host for line in lines if line.host]
    matches = {host.label: at for host, at in _matches(listed, found, look_up)}
    missing = tuple(host.label for host in listed if not matches[host.label])
    known = {address for at in matches.values() for address in at}
    new = [host for address, host in found.items() if address not in known]
    gone = set(missing) if prune else set()
    texts = [line.text for line in lines if not (line.host and line.host.label in gone)]
    return ListUpdate(
        path=path,
        text="".join(f"{text}\n" for text in [*texts, *(format_host(host) for host in new)]),
        added=tuple(host.label for host in new),
        kept=tuple(host.label for host in listed if matches[host.label]),
        missing=() if prune else missing,
        removed=missing if prune else (),
    )


def _matches(listed: Sequence[Host], found: Mapping[str, Host], look_up: LookUp) -> Iterator[tuple[Host, set[str]]]:
    """Yield each listed host with its addresses among those found; names are looked up where nothing else fits."""
    by_name: dict[str, set[str]] = {}
    for address, host in found.items():
        by_name.setdefault(address, set()).add(address)
        by_name.setdefault(host.name.lower(), set()).add(address)
    unknown = []
    for host in listed:
        at = by_name.get(host.attributes.get("address", "")) or by_name.get(host.name.lower())
        if at:
            yield host, {address for address in at if _same_port(host, found[address])}
        else:
            unknown.append(host)
    names = [host.attributes.get("address", host.name) for host in unknown]
    resolved = look_up(names) if names and found else {}
    for host, name in zip(unknown, names, strict=True):
        at = {address for address in resolved.get(name, ()) if address in found}
        yield host, {address for address in at if _same_port(host, found[address])}


def _same_port(listed: Host, found: Host) -> bool:
    """Tell whether both may be the same SSH server; a line with its own ssh_config may have its port from there."""
    return "ssh_config" in listed.attributes or (listed.port or 22) == (found.port or 22)
