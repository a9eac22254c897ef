"""Fold the outputs of many hosts: identical ones under one header, or each against what most of them said. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from roomful.hosts import Host
from roomful.report import host_spec


def fold(outputs: Mapping[Host, bytes]) -> list[tuple[tuple[Host, ...], bytes]]:
    """Group the hosts with the very same output, largest group first; ties in the hosts' order."""
    groups: dict[bytes, list[Host]] = {}
    for host, output in outputs.items():
        groups.setdefault(output, []).append(host)
    return sorted(((tuple(hosts), output) for output, hosts in groups.items()), key=lambda group: -len(group[0]))


def header(hosts: Sequence[Host]) -> bytes:
    """Write the header of a group as clush -b does: a rule, ``node[1-7,9] (8)``, a rule."""
    name = host_spec(hosts)
    title = f"{name} ({len(hosts)})" if len(hosts) > 1 else name
    return f"---------------\n{title}\n---------------\n".encode()


def gathered(outputs: Mapping[Host, bytes]) -> Iterable[bytes]:
    """Yield each group's header and output, byte for byte, with a newline at the end if it has none."""
    for hosts, output in fold(outputs):
        yield header(hosts)
        yield output if output.endswith(b"\n") or not output else output + b"\n"


def differences(outputs: Mapping[Host, bytes]) -> Iterable[bytes]:
    """Yield the majority's output under its header, then a unified diff for each group that differs from it."""
    groups = fold(outputs)
    if not groups:
        return
    most, expected = groups[0]
    yield header(most)
    yield expected if expected.endswith(b"\n") or not expected else expected + b"\n"
    name = host_spec(most).encode()
    for hosts, output in groups[1:]:
        yield header(hosts)
        lines = difflib.diff_bytes(
            difflib.unified_diff,
            expected.splitlines(keepends=True),
            output.splitlines(keepends=True),
            name,
            host_spec(hosts).encode(),
        )
        for line in lines:
            yield line if line.endswith(b"\n") else line + b"\n"


class LineMerger:
    """Cut a host's chunks of output into whole lines with the host's name before each."""

    def __init__(self, host: Host) -> None:
        self._prefix = f"{host.label}: ".encode()
        self._rest: dict[str, bytes] = {}

    def feed(self, stream: str, chunk: bytes) -> bytes:
        """Take a chunk; return the lines that are complete now."""
        whole, newline, rest = (self._rest.pop(stream, b"") + chunk).rpartition(b"\n")
        if rest:
            self._rest[stream] = rest
        return self._marked(whole + newline) if newline else b""

    def end(self, stream: str) -> bytes:
        """Return what is left without a newline, with one."""
        rest = self._rest.pop(stream, b"")
        return self._marked(rest + b"\n") if rest else b""

    def _marked(self, text: bytes) -> bytes:
        return b"".join(self._prefix + line for line in text.splitlines(keepends=True))
