"""Bring a large payload up the slow link once: each host passes it to the next, while it receives it.

Hosts pass it on over SSH. In the mode ``direct`` they do it over plain TCP (``workdir/direct.py``) where they reach
each other so, which spares them the work of encrypting, and over SSH where not.

What arrives is a seed (``workdir/relay.py``): the deployment that follows takes it from there, verifies it, and sends
by rsync whatever is not there. So nothing depends on the chain but how long it takes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from roomful import host_program, report
from roomful.children import dying_with_us
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.likeness import Likeness
from roomful.login_shell import command_line
from roomful.lookout import Lookout, Stop, framed, loader, program
from roomful.manifest import Manifest
from roomful.openssh import ssh_argv
from roomful.outcome import HostFailure, Outcome
from roomful.sent import Sent
from roomful.settings import Settings
from roomful.workdir.relay import SILENCE_SECONDS
from roomful.workdir.seed import CHUNK_BYTES, header_of

if TYPE_CHECKING:
    pass

MODES = ("auto", "chain", "direct", "off")
#: ``auto`` relays to more hosts than this, and more bytes than this to each.
AUTO_HOSTS = 3
AUTO_BYTES = 50_000_000
#: How often a payload is sent on from a host that has it to those that a broken link has cut off.
MOST_ROUNDS = 4
#: So many hosts are tried as the first one.
MOST_FIRST = 2
#: A host that so many others did not reach gets its copy from here; one that missed as many sends it to nobody more.
MOST_MISSED_BY = 2
MOST_MISSES = 2


@dataclass(frozen=True)
class Route:
    """How a payload is to go: ``mode`` is one of MODES, ``controller`` stands in the seeds' names."""

    mode: str
    controller: str
    sent: Sent


@dataclass
class Relayed:
    """What came of a relay. ``token`` ends the names of its seeds; ``note`` is for people."""

    token: str
    note: str = ""
    #: Labels of the hosts that have the whole payload.
    served: list[str] = field(default_factory=list)
    #: Hosts that have cost a deadline already: none of them is to cost another one.
    given_up: dict[Host, Outcome[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    """Which hosts have the payload, by their indices, which of them got it without SSH, and who missed whom."""

    have: tuple[int, ...] = ()
    directly: tuple[int, ...] = ()
    missed: tuple[tuple[int, int], ...] = ()


def check_mode(mode: str) -> str:
    """Return a value of ``--relay``; raises InputError for another."""
    if mode not in MODES:
        raise InputError(f"bad --relay {mode!r}", fix=f"give one of {', '.join(MODES)}")
    return mode


def spread(
    hosts: Sequence[Host], settings: Settings, request: dict[str, Any], manifest: Manifest, route: Route
) -> Relayed:
    """Bring to the hosts what they lack, from one to the next, where that pays (``auto``) or is wished.

    ``request`` holds the workdir, dest and key. A host where this fails is left to the deployment, unless it could
    not be reached or did not answer in time.
    """
    relayed = Relayed(secrets.token_hex(8))
    mode = route.mode
    if mode == "off" or (mode == "auto" and (len(hosts) <= AUTO_HOSTS or manifest.size <= AUTO_BYTES)):
        return relayed
    base = {
        **request,
        "run": relayed.token,
        "secret": "",
        "silent": 0,
        "limit": manifest.size,
        "pieces": mode == "auto",
    }
    seed = f"{route.controller}.{relayed.token}"
    with Lookout(settings, base, manifest, seed, direct=mode == "direct") as lookout:
        _spread(relayed, hosts, lookout, route)
        relayed.given_up = lookout.given_up
    return relayed


def _spread(relayed: Relayed, hosts: Sequence[Host], lookout: Lookout, route: Route) -> None:
    mode, sent = route.mode, route.sent
    settings, manifest = lookout.settings, lookout.manifest
    stops = lookout.ask({host: index for index, host in enumerate(hosts)})
    if mode == "auto":
        stops = _without_close(stops, manifest)
    wanted = sorted(set().union(*(stop.lacks for stop in stops)))
    size = sum(manifest.items[number].size for number in wanted)
    if len(stops) < 2 or (mode == "auto" and (len(stops) <= AUTO_HOSTS or size <= AUTO_BYTES)):
        return
    have: list[int] = []
    directly: set[int] = set()
    misses, missed_by = Counter[int](), Counter[int]()

    def account(answer: _Answer) -> None:
        have.extend(index for index in answer.have if index not in have)
        directly.update(answer.directly)
        misses.update(source for source, _ in answer.missed)
        missed_by.update(target for _, target in answer.missed)

    for _ in range(MOST_FIRST):
        account(_send(stops, settings, lookout.base, _payload(manifest, wanted, sent.meter())))
        if have:
            break
        stops = [*stops[1:], stops[0]]
        if mode == "direct":
            # Each door opens once.
            stops = lookout.ask({stop.host: stop.index for stop in stops})
    for _ in range(MOST_ROUNDS):
        sources = sorted((index for index in have if misses[index] < MOST_MISSES), key=lambda index: misses[index])
        left = [stop for stop in stops if stop.index not in have and missed_by[stop.index] < MOST_MISSED_BY]
        if not left or not sources:
            break
        if mode == "direct":
            left = lookout.ask({stop.host: stop.index for stop in left})
        # Of two between which a link broke, neither meets the other again at once.
        left.sort(key=lambda stop: missed_by[stop.index])
        source = next(stop for stop in stops if stop.index == sources[0])
        answer = _send([source, *left], settings, lookout.base)
        account(answer)
        if source.index not in answer.have:
            misses[source.index] = MOST_MISSES
    relayed.served = [hosts[index].label for index in have]
    rest = [stop.host for stop in stops if stop.index not in have]
    relayed.note = _note(relayed.served, rest, size, len(directly.intersection(have)))


def _without_close(stops: Sequence[Stop], manifest: Manifest) -> list[Stop]:
    """Leave to rsync the files of which hosts have an older version that is close, and hosts that lack no others."""
    likeness = Likeness(manifest, len(stops))
    found = []
    for stop in stops:
        close = {number for number, older in stop.older.items() if likeness.is_close(number, older)}
        if lacks := stop.lacks - close:
            found.append(replace(stop, lacks=lacks))
    return found


def _note(served: Sequence[str], rest: Sequence[Host], size: int, directly: int) -> str:
    """Say which way the bytes went; ``directly`` is how many hosts got them without SSH."""
    if not served:
        return "relay: no host could be served; all by rsync from here"
    passed, wanted = len(served) - 1, len(served) - 1 + len(rest)
    ways = [f"unencrypted over TCP to {directly} of {wanted}"] if directly else []
    ways += [f"over SSH to {passed - directly} of {wanted}"] if passed > directly or not directly else []
    note = f"relay: {report.size(size)} sent once to {served[0]}, passed on {' and '.join(ways)}"
    if not rest:
        return note
    return f"{note}; not reached by other hosts, so the rest by rsync from here: {report.host_spec(rest)}"


def _send(
    chain: Sequence[Stop],
    settings: Settings,
    base: dict[str, Any],
    payload: Iterable[bytes] | None = None,
) -> _Answer:
    """Send a payload along a chain and return what came of it; without one the first host has it already."""
    head, *rest = chain
    request = {
        **base,
        "source": "seed" if payload is None else "stdin",
        "index": head.index,
        "seed": head.hop["seed"],
        "door": head.hop["door"],
        "hops": [stop.hop for stop in rest],
    }
    argv = [*dying_with_us(), *ssh_argv(head.host, settings, command=[command_line(loader())])]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    moved = time.monotonic()
    said = b""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            if time.monotonic() - moved > SILENCE_SECONDS:
                process.kill()

    threading.Thread(target=watch, daemon=True, name="relay").start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(program().encode() + framed(request))
            for data in payload or ():
                process.stdin.write(data)
                moved = time.monotonic()
            process.stdin.close()
        # What is said meanwhile is little, so that the pipe has held it all the time.
        while data := os.read(process.stdout.fileno(), 1 << 16):
            said += data
            moved = time.monotonic()
        answer = host_program.answer_of(0, said, b"")
        mine = {stop.index for stop in chain}
        have, directly = ([index for index in answer[name] if index in mine] for name in ("have", "directly"))
        missed = tuple((int(one), int(other)) for one, other in answer["missed"])
        return _Answer(tuple(have), tuple(directly), missed)
    except (HostFailure, KeyError, TypeError, ValueError):
        return _Answer()
    finally:
        ended.set()
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


def _payload(
    manifest: Manifest, wanted: Sequence[int], on_bytes: Callable[[int], None] | None = None
) -> Iterator[bytes]:
    """Yield the files with these numbers as the hosts read them, and tell how many bytes of them have been taken."""
    sent = 0
    for number in wanted:
        item = manifest.items[number]
        with open(os.path.join(manifest.root, item.path), "rb", buffering=0) as file:
            info = os.fstat(file.fileno())
            yield header_of(item.path, info)
            left = info.st_size
            while left:
                data = file.read(min(left, CHUNK_BYTES))
                if not data:
                    raise InputError(
                        "SOURCE changed while it was sent", where=os.fsdecode(item.path), fix="run it again"
                    )
                left -= len(data)
                yield data
                sent += len(data)
                if on_bytes:
                    on_bytes(sent)
    yield b"\n"
