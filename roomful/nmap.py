"""Run nmap: its command lines for each kind of pass over a network, and its hosts as it reports them."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from roomful.children import dying_with_us
from roomful.errors import InputError, MissingProgram, RoomfulError
from roomful.nmap_report import NmapError, UpHost, XmlReader
from roomful.units import parse_duration

#: Packets a second: about 4 Mbit/s of small packets on the wire.
RATE = 5000
#: Hosts that nmap takes on at a time in a ping scan; its percentages are of such a batch.
BATCH = 4096
#: How often nmap says how far it is.
_PROGRESS_EVERY = "250ms"


@dataclass(frozen=True)
class ScanOptions:
    """How to scan. ``max_rtt_timeout`` is in seconds (0: nmap's own), so is ``dns_timeout`` (0: no look-ups).

    ``rate`` is the least packets a second in the quick passes; ``quick`` leaves out the slow one that follows where
    packets are lost.
    """

    port: int = 22
    max_rtt_timeout: float = 0.0
    rate: int = RATE
    quick: bool = False
    dns_timeout: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises InputError.
        """
        if not 1 <= self.port <= 65535:
            raise InputError(f"bad port {self.port}", where="--port", fix="write a port from 1 to 65535")
        if self.max_rtt_timeout and not 0.005 <= self.max_rtt_timeout <= 60:
            fix = "write a time from 5ms to 60s, such as 60ms"
            raise InputError("bad time-out", where="--max-rtt-timeout", fix=fix)
        if not 10 <= self.rate <= 100_000:
            fix = "write packets a second, from 10 to 100000"
            raise InputError(f"bad rate {self.rate}", where="--rate", fix=fix)
        if not 0 <= self.dns_timeout <= 600:
            fix = "write seconds up to 600; 0 looks nothing up"
            raise InputError(f"bad time-out {self.dns_timeout:g}", where="--dns-timeout", fix=fix)


def parse_time(text: str) -> float:
    """Read ``--max-rtt-timeout`` (``60ms``) and return seconds; "" is 0: nmap's own.

    Raises InputError.
    """
    try:
        return parse_duration(text) if text else 0.0
    except ValueError as error:
        raise InputError(str(error), where="--max-rtt-timeout", fix="write for example 60ms") from None


def can_send_raw() -> bool:
    """Tell whether nmap can send packets of its own making here: root can, but not in every container."""
    if os.geteuid() != 0:
        return False
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    except OSError:
        return False
    return True


def quick_pass(probe: str, options: ScanOptions, *, raw: bool) -> list[str]:
    """Return nmap's arguments for a pass with one packet an address at a fixed rate.

    One kind of probe a pass: without retries, nmap sends a silent host only the first of several.
    """
    pace = ["-T4", "--max-retries", "0", "--min-rate", str(options.rate)]
    return [*_common(options, raw), "-sn", *pace, probe]


def patient_pass(options: ScanOptions, *, raw: bool) -> list[str]:
    """Return nmap's arguments for a pass at its own pace and with its own retries, with the quick passes' probes."""
    probes = ["-PE", f"-PS{options.port}"] if raw else [f"-PS{options.port},443"]
    return [*_common(options, raw), "-sn", *probes]


def port_pass(options: ScanOptions, *, raw: bool) -> list[str]:
    """Return nmap's arguments for asking the SSH port of hosts that are known to be up."""
    kind = "-sS" if raw else "-sT"
    return [*_common(options, raw), "-Pn", kind, "-T4", "--max-retries", "2", "-p", str(options.port)]


def _common(options: ScanOptions, raw: bool) -> list[str]:
    arguments = ["--privileged" if raw else "--unprivileged", "-n", "--stats-every", _PROGRESS_EVERY]
    if options.max_rtt_timeout:
        arguments += ["--max-rtt-timeout", f"{math.ceil(options.max_rtt_timeout * 1000)}ms"]
    return [*arguments, "-iL", "-", "-oX", "-"]


def run(
    arguments: Sequence[str],
    targets: Iterable[object],
    port: int,
    on_host: Callable[[UpHost], None],
    on_percent: Callable[[float], None] | None = None,
) -> int:
    """Run nmap over the targets (networks or addresses) and return how many addresses it could ask.

    It counts those to which there is a route. ``on_host`` and ``on_percent`` as for XmlReader. Raises MissingProgram,
    and RoomfulError with nmap's own words when it fails.
    """
    program = shutil.which("nmap")
    if program is None:
        raise MissingProgram("nmap", "sudo apt install nmap")
    reader = XmlReader(port, on_host, on_percent)
    with tempfile.TemporaryFile() as standard_input, tempfile.TemporaryFile() as messages:
        standard_input.write("".join(f"{target}\n" for target in targets).encode())
        standard_input.seek(0)
        # A session of its own: with a terminal nmap would change its mode and wait for keys.
        with subprocess.Popen(
            [*dying_with_us(), program, *arguments],
            stdin=standard_input,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                while chunk := os.read(process.stdout.fileno(), 1 << 16):
                    reader.feed(chunk)
                reader.close()
            except NmapError as error:
                process.wait()
                messages.seek(0)
                raise RoomfulError("nmap failed", why=_complaint(messages.read()) or str(error)) from error
            finally:
                process.kill()
    if reader.error:
        raise RoomfulError("nmap failed", why=reader.error)
    return reader.asked


def _complaint(messages: bytes) -> str:
    """Return the first line of what nmap said on standard error."""
    lines = [line.strip() for line in messages.decode(errors="replace").splitlines()]
    return next((line for line in lines if line and line != "QUITTING!"), "")
