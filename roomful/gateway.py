"""One login on a gateway for all hosts behind it.

Each host behind a gateway is dialled by an OpenSSH client of its own (``ssh -W``). For more than a few of them a
master connection comes first, and the clients go through it: the gateway sees one login instead of hundreds, which
its sshd would turn away (MaxStartups), and keys are exchanged with it once.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from roomful.dialer import Address

#: So many hosts may log in on their gateway each for itself.
FEW = 4
#: How long a master may take to end.
END_SECONDS = 2.0
POLL_SECONDS = 0.01


def way_of(proxy: Sequence[str]) -> tuple[str, ...] | None:
    """Return the command that leads to the gateway, without what lies behind it; None for what is not ``ssh -W``."""
    words = list(proxy)
    if "ssh" not in words or "-W" not in words:
        return None
    at = words.index("-W")
    return (*words[:at], *words[at + 2 :])


def through_master(proxy: Sequence[str], socket: Path) -> tuple[str, ...]:
    """Let an ``ssh`` command go through a master connection; without one it still goes by itself."""
    at = list(proxy).index("ssh") + 1
    # ssh takes the first value of an option that it meets.
    return (*proxy[:at], "-S", str(socket), "-o", "ControlMaster=no", *proxy[at:])


def master_argv(way: Sequence[str], socket: Path) -> list[str]:
    """Return the command that holds a master connection on the gateway for as long as it runs."""
    at = list(way).index("ssh") + 1
    options = ["-S", str(socket), "-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-N", "-T"]
    return [*way[:at], *options, *way[at:]]


@contextlib.contextmanager
def shared_ways(addresses: Sequence[Address], seconds: float) -> Iterator[Sequence[Address]]:
    """Open a master connection for each gateway that many addresses lie behind; yields the addresses to dial.

    A gateway that does not let us in within ``seconds`` gets no master: each host then says itself what is wrong.
    """
    counts = Counter(way for address in addresses if (way := way_of(address.proxy)))
    busy = [way for way, count in counts.items() if count > FEW]
    if not busy:
        yield addresses
        return
    with tempfile.TemporaryDirectory(prefix="roomful-", ignore_cleanup_errors=True) as folder:
        sockets = {way: Path(folder) / str(number) for number, way in enumerate(busy)}
        masters: list[subprocess.Popen[bytes]] = []
        try:
            # No ssh on this machine: the dialler meets that again, and names it.
            with contextlib.suppress(OSError):
                masters += (_start(way, socket) for way, socket in sockets.items())
            deadline = time.monotonic() + seconds
            for master, socket in zip(masters, sockets.values(), strict=False):
                while not socket.exists() and master.poll() is None and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
            yield [_shared(address, sockets) for address in addresses]
        finally:
            for master in masters:
                _end(master)


def _shared(address: Address, sockets: dict[tuple[str, ...], Path]) -> Address:
    socket = sockets.get(way_of(address.proxy) or ())
    return replace(address, proxy=through_master(address.proxy, socket)) if socket and socket.exists() else address


def _start(way: Sequence[str], socket: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        master_argv(way, socket),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(master: subprocess.Popen[bytes]) -> None:
    master.terminate()
    try:
        master.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        master.kill()
        master.wait()
