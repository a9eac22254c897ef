"""Names of hosts by the system's resolver: many look-ups at once, and never longer than a deadline.

A name that comes from reverse DNS was chosen by whoever runs that address's zone. It counts only if it has the form
of a host name, is no address in disguise, and its own look-up leads back to the address.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from roomful.hosts import is_host_name

K = TypeVar("K")
V = TypeVar("V")

#: Look-ups under way at the same time.
THREADS = 64
#: The deadline holds for this many look-ups; more get proportionally more time while answers keep coming.
LOOKUPS_A_DEADLINE = 256
#: The resolver takes "127.1", "0x7f000001" and "2130706433" for addresses.
_NUMBER = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)")


def checked_name(text: str) -> str:
    """Return a name from reverse DNS in lower case and without its final dot; "" if it cannot be a host's name."""
    name = text.removesuffix(".").lower()
    if not is_host_name(name) or ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return ""
    return name


def confirmed_name(address: str) -> str:
    """Look up the name of an address; "" where there is none that resolves back to it."""
    try:
        name = checked_name(socket.gethostbyaddr(address)[0])
    except (OSError, UnicodeError):
        return ""
    return name if name and address in _addresses(name) else ""


def contradicted(names: Mapping[str, str], timeout: float) -> frozenset[str]:
    """Return those addresses whose name (``names`` has it by address) resolves, but only to other addresses."""
    resolved = addresses_of(names.values(), timeout)
    return frozenset(
        address for address, name in names.items() if resolved.get(name) and address not in resolved[name]
    )


def addresses_of(names: Iterable[str], timeout: float) -> dict[str, frozenset[str]]:
    """Look up the addresses of names; a name that does not resolve in time has none."""
    return look_up_all(_addresses, dict.fromkeys(names), timeout)


def look_up_all(look_up: Callable[[K], V], keys: Iterable[K], timeout: float) -> dict[K, V]:
    """Call ``look_up`` for all keys in threads, and return what was answered in time.

    Ends when all are answered, when no answer came for ``timeout`` seconds (so a resolver that is a black hole costs
    that once), or when the whole has taken ``timeout`` for every 256 keys. A look-up that hangs keeps its daemon
    thread until the resolver gives up; nobody waits for it.
    """
    waiting: queue.SimpleQueue[K] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[K, V]] = queue.SimpleQueue()
    total = 0
    for key in keys:
        waiting.put(key)
        total += 1
    if timeout <= 0:
        return {}
    end = time.monotonic() + timeout * (1 + total // LOOKUPS_A_DEADLINE)

    def work() -> None:
        while time.monotonic() < end:
            try:
                key = waiting.get_nowait()
            except queue.Empty:
                return
            answers.put((key, look_up(key)))

    for _ in range(min(THREADS, total)):
        threading.Thread(target=work, daemon=True, name="resolver").start()
    found: dict[K, V] = {}
    while len(found) < total:
        try:
            key, value = answers.get(timeout=max(0.0, min(timeout, end - time.monotonic())))
        except queue.Empty:
            break
        found[key] = value
    return found


def _addresses(name: str) -> frozenset[str]:
    try:
        return frozenset(str(item[4][0]) for item in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return frozenset()
