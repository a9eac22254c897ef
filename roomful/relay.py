"""Bring a large payload up the slow link once: each host passes it to the next over SSH, while it receives it.

What arrives is a seed (``workdir/relay.py``): the deployment that follows takes it from there, verifies it, and sends
by rsync whatever is not there. So nothing depends on the chain but how long it takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roomful import host_program, report
from roomful.children import dying_with_us
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.login_shell import command_line
from roomful.manifest import Manifest
from roomful.openssh import KEX_ALGORITHMS, ssh_argv
from roomful.outcome import HostFailure
from roomful.settings import Settings
from roomful.sharing import disks
from roomful.workdir.relay import CHUNK_BYTES, header_of

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

MODES = ("auto", "chain", "off")
#: ``auto`` relays to more hosts than this, and more bytes than this to each.
AUTO_HOSTS = 3
AUTO_BYTES = 50_000_000
#: How often a payload is sent on from a host that has it to those that a broken link has cut off.
MOST_ROUNDS = 4
#: Those that processors help with first: every host encrypts the payload once and decrypts it once.
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr"
#: A chain whose first host has taken nothing, or not answered, for this long is given up.
SILENCE_SECONDS = 150.0


@dataclass
class Relayed:
    """What came of a relay. ``token`` ends the names of its seeds; ``note`` is for people."""

    token: str
    note: str = ""
    #: Labels of the hosts that have the whole payload.
    served: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Stop:
    """A host on the way, with what its predecessor needs to log in there."""

    index: int
    host: Host
    hop: dict[str, Any]
    lacks: frozenset[int]


def check_mode(mode: str) -> str:
    """Return a value of ``--relay``; raises InputError for another."""
    if mode not in MODES:
        raise InputError(f"bad --relay {mode!r}", fix=f"give one of {', '.join(MODES)}")
    return mode


def spread(
    hosts: Sequence[Host], settings: Settings, request: dict[str, Any], manifest: Manifest, controller: str, mode: str
) -> Relayed:
    """Bring to the hosts what they lack, from one to the next, where that pays (``auto``) or is wished (``chain``).

    ``request`` holds the workdir, dest and key. A host that cannot be reached is left to the deployment.
    """
    relayed = Relayed(secrets.token_hex(8))
    if mode == "off" or (mode == "auto" and (len(hosts) <= AUTO_HOSTS or manifest.size <= AUTO_BYTES)):
        return relayed
    base = {**request, "run": relayed.token, "program": _program()}
    stops = _look(hosts, settings, base, manifest, f"{controller}.{relayed.token}")
    wanted = sorted(set().union(*(stop.lacks for stop in stops)))
    size = sum(manifest.items[number].size for number in wanted)
    if len(stops) < 2 or (mode == "auto" and (len(stops) <= AUTO_HOSTS or size <= AUTO_BYTES)):
        return relayed
    have = _send(stops, settings, base, manifest, wanted)
    sources = list(have)
    left = [stop for stop in stops if stop.index not in have]
    for _ in range(MOST_ROUNDS):
        if not left or not sources:
            break
        source = next(stop for stop in stops if stop.index == sources[-1])
        news = [index for index in _send([source, *left], settings, base) if index not in have]
        if news:
            have += news
            sources += news
            left = [stop for stop in left if stop.index not in have]
        else:
            # Either of the two may be why: neither meets the other again at once.
            sources.pop()
            left = [*left[1:], left[0]]
    relayed.served = [hosts[index].label for index in have]
    relayed.note = _note(relayed.served, len(stops), size)
    return relayed


def _note(served: Sequence[str], wanted: int, size: int) -> str:
    """Say which way the bytes went."""
    if not served:
        return "relay: no host could be served; all by rsync from here"
    amount, passed = report.size(size), f"{len(served) - 1} of {wanted - 1}"
    note = f"relay: {amount} sent once to {served[0]}, passed on over SSH to {passed}"
    return note if len(served) == wanted else f"{note}; the rest by rsync from here"


def _program() -> str:
    return host_program.program("relay")


def _loader() -> list[str]:
    code = f"import sys;exec(compile(sys.stdin.buffer.read({len(_program().encode())}),'roomful','exec'))"
    return ["python3", "-I", "-S", "-c", code]


def _framed(request: dict[str, Any]) -> bytes:
    packed = zlib.compress(json.dumps(request).encode(), 1)
    return b"%08d" % len(packed) + packed


def _look(
    hosts: Sequence[Host], settings: Settings, base: dict[str, Any], manifest: Manifest, seed: str
) -> list[_Stop]:
    """Ask all hosts what they lack; of those that share a disk only one is on the way."""
    from roomful.ssh import fan_out

    indices = {host: index for index, host in enumerate(hosts)}
    items = [item.to_wire() for item in manifest.items]
    seen: dict[int, list[int]] = {}

    def work(connection: HostConnection) -> _Stop:
        index = indices[connection.entry]
        endpoint = connection.endpoint
        assert endpoint is not None
        asked = _framed({**base, "program": "", "source": "look", "index": index, "items": items})
        done = connection.python(_program(), stdin=asked, check=False)
        answer = host_program.answer_of(done.exit_code, done.stdout, done.stderr)
        seen[index] = answer["seen"]
        if not answer["ssh"]:
            raise HostFailure("no-program", "ssh is not installed there")
        key = connection.transport.get_remote_server_key()
        name = f"{connection.entry.key[:80]}-{index}@{seed}"
        hop = {
            "index": index,
            "seed": name,
            "host_key": f"roomful-next {key.get_name()} {key.get_base64()}",
            "argv": _hop_argv(endpoint.user, endpoint.host, endpoint.port),
        }
        return _Stop(index, connection.entry, hop, frozenset(answer["lacks"]))

    outcomes = fan_out(hosts, work, settings)
    first = disks(seen)
    found = [outcome.value for outcome in outcomes.ok if outcome.value]
    return [stop for stop in found if stop.lacks and first[stop.index] == stop.index]


def _hop_argv(user: str, address: str, port: int) -> list[str]:
    """Return the command by which a host starts the program on the next one, whose key must be the one we know."""
    words = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": "KNOWN_HOSTS",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "roomful-next",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ControlPath": "none",
        "LogLevel": "ERROR",
        "KexAlgorithms": KEX_ALGORITHMS,
        "Ciphers": CIPHERS,
    }
    options = [word for key, value in words.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", *options, "-p", str(port), "-l", user, "--", address, command_line(_loader())]


def _send(
    chain: Sequence[_Stop],
    settings: Settings,
    base: dict[str, Any],
    manifest: Manifest | None = None,
    wanted: Sequence[int] = (),
) -> list[int]:
    """Send a payload along a chain and return the indices that have it; without a manifest the first host has it."""
    head, *rest = chain
    request = {
        **base,
        "source": "stdin" if manifest else "seed",
        "index": head.index,
        "seed": head.hop["seed"],
        "hops": [stop.hop for stop in rest],
    }
    argv = [*dying_with_us(), *ssh_argv(head.host, settings, command=[command_line(_loader())])]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    moved = time.monotonic()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            if time.monotonic() - moved > SILENCE_SECONDS:
                process.kill()

    threading.Thread(target=watch, daemon=True, name="relay").start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(_program().encode() + _framed(request))
            for data in _payload(manifest, wanted) if manifest else ():
                process.stdin.write(data)
                moved = time.monotonic()
            process.stdin.close()
        # An answer is small, so that the pipe has held it all the time.
        answer = host_program.answer_of(0, process.stdout.read(), b"")
        return [int(index) for index in answer["have"]]
    except HostFailure:
        return []
    finally:
        ended.set()
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


def _payload(manifest: Manifest, wanted: Sequence[int]) -> Iterator[bytes]:
    """Yield the files with these numbers as the hosts read them."""
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
    yield b"\n"
