"""Nmap's reports: the hosts that were up, from XML, grepable (-oG) or normal output."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.parsers import expat

from roomful.errors import InputError
from roomful.names import checked_name

#: ``unknown``: the report does not speak of the port.
PortState = Literal["open", "closed", "filtered", "unknown"]

#: Nmap's words for the state of a port; ``unfiltered`` answered without saying whether it is open.
_PORT_STATES: dict[str, PortState] = {
    "open": "open",
    "closed": "closed",
    "unfiltered": "closed",
    "filtered": "filtered",
    "open|filtered": "filtered",
    "closed|filtered": "filtered",
}
_GREPABLE = re.compile(rb"^Host: ", re.MULTILINE)
_NORMAL = re.compile(rb"^Nmap scan report for ", re.MULTILINE)
#: A report of a scan that found nothing has only these lines, in both text forms.
_FRAME = re.compile(rb"^(# Nmap [0-9.]+\S* scan initiated |Starting Nmap |Nmap done: )", re.MULTILINE)
_DONE = re.compile(r"(# )?Nmap done( at [^:]+:\d\d:\d\d \d+)?(:| --) ")
_HOST_LINE = re.compile(
    r"Nmap scan report for (?:(?P<name>.*) \((?P<in>[^()]+)\)|(?P<bare>\S+))(?P<down> \[host down.*)?"
)
_PORT_LINE = re.compile(r"(?P<port>\d+)/tcp\s+(?P<state>[a-z|]+)\s")
_PORT_FIELD = re.compile(r"(?P<port>\d+)/(?P<state>[a-z|]+)/tcp/")


@dataclass(frozen=True)
class UpHost:
    """A host that a report calls up: its address, its checked name ("" for none) and the state of the port.

    ``reason`` is nmap's word for why it is up (``syn-ack``, ``echo-reply``, ...); only XML has it.
    """

    address: str
    name: str = ""
    port_state: PortState = "unknown"
    reason: str = ""


class NmapError(Exception):
    """An XML report breaks off, or is none; ``line`` is where."""

    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.line = line


class XmlReader:
    """Read nmap's XML as it comes; entities are refused.

    ``on_host`` is called for every host that is up, ``on_percent`` with the progress of nmap's current batch of hosts
    (it starts at 0 again with each). Both ``feed`` and ``close`` raise NmapError.
    """

    def __init__(
        self,
        port: int,
        on_host: Callable[[UpHost], None],
        on_percent: Callable[[float], None] | None = None,
    ) -> None:
        self.port = str(port)
        self.on_host = on_host
        self.on_percent = on_percent
        #: Addresses that nmap asked; those without a route are not among them.
        self.asked = 0
        #: Nmap's own message where it gave up.
        self.error = ""
        self._open: list[str] = []
        self._host: dict[str, str] = {}
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.EntityDeclHandler = self._refuse_entity

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Take the next piece of the report."""
        try:
            self._parser.Parse(data, final)
        except expat.ExpatError as error:
            raise NmapError(expat.ErrorString(error.code), error.lineno) from error

    def close(self) -> None:
        """Say that the report ends here."""
        self.feed(b"", final=True)

    def _refuse_entity(self, *_: object) -> None:
        raise NmapError("it declares entities, which nmap never does", self._parser.CurrentLineNumber)

    def _start(self, tag: str, values: dict[str, str]) -> None:
        if not self._open and tag != "nmaprun":
            raise NmapError(f"it starts with <{tag}>, not with <nmaprun>", self._parser.CurrentLineNumber)
        parent = self._open[-1] if self._open else ""
        self._open.append(tag)
        if tag == "host":
            self._host = {}
        elif tag == "taskprogress":
            if self.on_percent:
                self.on_percent(_number(values.get("percent", "")))
        elif tag == "finished":
            self.error = values.get("errormsg", "") if values.get("exit") == "error" else ""
        elif tag == "hosts" and parent == "runstats":
            self.asked = int(_number(values.get("total", "")))
        elif "host" in self._open[:-1]:
            self._describe(tag, parent, values)

    def _describe(self, tag: str, parent: str, values: dict[str, str]) -> None:
        if tag == "status":
            self._host.update(state=values.get("state", ""), reason=values.get("reason", ""))
        elif tag == "address" and values.get("addrtype") != "mac":
            self._host["address"] = values.get("addr", "")
        elif tag == "hostname" and (values.get("type") == "PTR" or "name" not in self._host):
            self._host["name"] = values.get("name", "")
        elif tag == "port" and values.get("protocol") == "tcp":
            self._host["at"] = values.get("portid", "")
        elif tag == "state" and parent == "port" and self._host.get("at") == self.port:
            self._host["port_state"] = values.get("state", "")

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag == "port":
            self._host.pop("at", None)
        if tag != "host" or self._host.get("state") != "up":
            return
        address = _address(self._host.get("address", ""))
        if not address:
            why = f"a host with the bad address {self._host.get('address', '')!r}"
            raise NmapError(why, self._parser.CurrentLineNumber)
        state = _PORT_STATES.get(self._host.get("port_state", ""), "unknown")
        name = checked_name(self._host.get("name", ""))
        self.on_host(UpHost(address, name, state, self._host["reason"]))


def read_report(path: Path, port: int = 22) -> tuple[UpHost, ...]:
    """Read a saved report, whichever of the three forms it has; hosts in its order, each once.

    Raises InputError with file and line for a report that is cut off or damaged, and for what is no report.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("cannot read the nmap report", where=str(path), why=error.strerror or "") from error
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return _once(_read_xml(data, path, port))
    if _GREPABLE.search(data):
        return _once(_read_grepable(_lines(data), path, port))
    if _NORMAL.search(data):
        return _once(_read_normal(_lines(data), path, port))
    if _FRAME.search(data):
        _check_end(_lines(data), path)
        return ()
    fix = "give what nmap -oX, -oG or -oN wrote, or what it printed"
    raise InputError("not an nmap report", where=f"{path}:1", fix=fix)


def _read_xml(data: bytes, path: Path, port: int) -> list[UpHost]:
    hosts: list[UpHost] = []
    reader = XmlReader(port, hosts.append)
    try:
        reader.feed(data, final=True)
    except NmapError as error:
        raise _damaged(path, error.line, str(error)) from error
    if reader.error:
        raise _damaged(path, data.count(b"\n"), f"nmap gave up: {reader.error}")
    return hosts


def _read_grepable(lines: list[str], path: Path, port: int) -> list[UpHost]:
    hosts: list[UpHost] = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split("\t")
        match = re.fullmatch(r"Host: (\S+) \((.*)\)", fields[0])
        address = _address(match[1]) if match else ""
        if not match or not address or len(fields) < 2:
            raise _damaged(path, number, "the line is not of the form 'Host: ADDRESS (NAME)<tab>...'")
        if fields[1] == "Status: Down":
            continue
        state: PortState = "unknown"
        for field in fields[1:]:
            if field.startswith("Ports: "):
                state = _state_of(_PORT_FIELD, field.removeprefix("Ports: ").split(", "), port)
        hosts.append(UpHost(address, checked_name(match[2]), state))
    _check_end(lines, path)
    return hosts


def _read_normal(lines: list[str], path: Path, port: int) -> list[UpHost]:
    hosts: list[UpHost] = []
    current: UpHost | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith("Nmap scan report for "):
            match = _HOST_LINE.fullmatch(line)
            address = _address(match["in"] or match["bare"]) if match else ""
            if not match or not address:
                raise _damaged(path, number, "the line is not of the form 'Nmap scan report for NAME (ADDRESS)'")
            current = None if match["down"] else UpHost(address, checked_name(match["name"] or ""))
        elif current and line.startswith("Host is up"):
            hosts.append(current)
        elif current and hosts and hosts[-1].address == current.address:
            state = _state_of(_PORT_LINE, [f"{line} "], port)
            if state != "unknown":
                hosts[-1] = replace(hosts[-1], port_state=state)
    _check_end(lines, path)
    return hosts


def _state_of(pattern: re.Pattern[str], texts: list[str], port: int) -> PortState:
    for text in texts:
        match = pattern.match(text)
        if match and int(match["port"]) == port:
            return _PORT_STATES.get(match["state"], "unknown")
    return "unknown"


def _lines(data: bytes) -> list[str]:
    return [line.removesuffix("\r") for line in data.decode(errors="replace").split("\n")]


def _check_end(lines: list[str], path: Path) -> None:
    """Refuse a text report without its last line: the hosts that follow are missing."""
    if not any(_DONE.match(line) for line in lines):
        raise _damaged(path, len(lines), "it breaks off before nmap's last line, 'Nmap done'")


def _damaged(path: Path, line: int, why: str) -> InputError:
    return InputError("the nmap report is damaged", where=f"{path}:{line}", why=why, fix="let nmap write it again")


def _once(hosts: list[UpHost]) -> tuple[UpHost, ...]:
    """Merge what several lines say of one address; what is known wins."""
    merged: dict[str, UpHost] = {}
    for host in hosts:
        seen = merged.setdefault(host.address, host)
        state = host.port_state if seen.port_state == "unknown" else seen.port_state
        merged[host.address] = replace(seen, port_state=state, name=seen.name or host.name)
    return tuple(merged.values())


def _address(text: str) -> str:
    """Return the address in its usual form; "" if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
