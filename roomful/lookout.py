"""Hosts on the way of a relay: asked what they lack, and kept listening for the host before them.

Where hosts pass a payload on without SSH, each listens only as long as it hears from us over the connection on which
it was asked (``workdir/direct.py``): when this process ends, so does that.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roomful import host_program
from roomful.hosts import Host
from roomful.likeness import Older, older_of
from roomful.login_shell import command_line
from roomful.manifest import Manifest
from roomful.openssh import KEX_ALGORITHMS
from roomful.outcome import HostFailure, Outcome
from roomful.settings import Settings
from roomful.sharing import disks
from roomful.workdir.files import ANSWER

if TYPE_CHECKING:
    from roomful.remote_stream import RemoteStream
    from roomful.ssh import HostConnection

#: Those that processors help with first: every host encrypts the payload once and decrypts it once.
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr"
#: A host has this much longer to answer for a long list of files.
SECONDS_PER_FILE = 1 / 5000
#: How often hosts that listen hear from us.
HEARD_SECONDS = 1.0


@dataclass(frozen=True)
class Stop:
    """A host on the way, with what its predecessor needs to log in there."""

    index: int
    host: Host
    hop: dict[str, Any]
    lacks: frozenset[int]
    #: Of some of those files, by number: the version that it has.
    older: Mapping[int, Older] = field(default_factory=dict)


class Lookout:
    """Asks hosts what they lack; as long as the ``with`` block lasts they listen, if that is wished.

    ``base`` is what every request of the relay holds; ``seed`` ends the names of what it leaves there.
    """

    def __init__(
        self, settings: Settings, base: Mapping[str, Any], manifest: Manifest, seed: str, direct: bool
    ) -> None:
        self.settings = settings
        self.manifest = manifest
        self.base: dict[str, Any] = {**base, "program": program()}
        self._seed = seed
        self._direct = direct
        #: Hosts that could not be reached, or did not answer in time.
        self.given_up: dict[Host, Outcome[None]] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Lookout:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        self._over.set()
        for thread in self._threads:
            # Who is at a door comes at once; who still waits for an answer is not waited for.
            thread.join(HEARD_SECONDS)
        self._threads.clear()

    def ask(self, indices: Mapping[Host, int]) -> list[Stop]:
        """Ask hosts what they lack; of those that share a disk only one is on the way.

        Those that were asked before listen no more: each opens its door once.
        """
        from roomful.ssh import fan_out

        self._dismiss()
        self._over = over = threading.Event()
        if self._direct:
            self.base["secret"] = secrets.token_hex(32)
        settings = self.settings.replace(
            # Whoever waits at a door keeps its place.
            parallel=max(len(indices), self.settings.parallel),
        )
        items = [item.to_wire() for item in self.manifest.items]
        seconds = self.settings.login_timeout_seconds + len(items) * SECONDS_PER_FILE
        request = {**self.base, "program": "", "source": "look", "items": items}
        found: list[Stop] = []
        seen: dict[int, list[int]] = {}
        answered = threading.Semaphore(0)

        def work(connection: HostConnection) -> None:
            index = indices[connection.entry]
            with _asked(connection, {**request, "index": index}, seconds) as (stream, answer):
                if not answer["ssh"] and not answer["door"]:
                    raise HostFailure("no-program", "ssh is not installed there")
                seen[index] = answer["seen"]
                found.append(self._stop(connection, index, answer))
                answered.release()
                while answer["door"] and not over.wait(HEARD_SECONDS):
                    stream.send(b".")

        def ended(outcome: Outcome[None]) -> None:
            if indices[outcome.host] in seen:
                return
            if outcome.status == "unreachable" or outcome.reason == "command-timeout":
                self.given_up[outcome.host] = outcome
            answered.release()

        def ask_all() -> None:
            fan_out(list(indices), work, settings, ended)

        self._threads.append(threading.Thread(target=ask_all, daemon=True, name="lookout"))
        self._threads[0].start()
        for _ in indices:
            answered.acquire()
        first = disks(seen)
        stops = [stop for stop in found if stop.lacks and first[stop.index] == stop.index]
        return sorted(stops, key=lambda stop: stop.index)

    def _stop(self, connection: HostConnection, index: int, answer: dict[str, Any]) -> Stop:
        endpoint = connection.endpoint
        assert endpoint is not None
        key = connection.transport.get_remote_server_key()
        hop = {
            "index": index,
            "seed": f"{connection.entry.key[:80]}-{index}@{self._seed}",
            "host_key": f"roomful-next {key.get_name()} {key.get_base64()}",
            "argv": hop_argv(endpoint.user, endpoint.host, endpoint.port),
            "door": answer["door"],
        }
        return Stop(index, connection.entry, hop, frozenset(answer["lacks"]), older_of(answer["older"]))


@contextlib.contextmanager
def _asked(
    connection: HostConnection, request: dict[str, Any], seconds: float
) -> Iterator[tuple[RemoteStream, dict[str, Any]]]:
    """Ask one host; yields the stream to it, which its program reads on, and its answer."""
    from roomful.remote_stream import RemoteStream

    stream = RemoteStream(connection, loader())
    expired = threading.Event()

    def give_up() -> None:
        expired.set()
        stream.close()

    late = threading.Timer(seconds, give_up)
    late.daemon = True
    late.start()
    try:
        stream.send(program().encode() + framed(request))
        said = b""
        while not said.partition(ANSWER.encode())[2].endswith(b"\n"):
            data = stream.receive()
            if not data:
                break
            said += data
        late.cancel()
        if expired.is_set():
            raise HostFailure("command-timeout", f"no answer within {seconds:g} s")
        code, words = (0, "") if ANSWER.encode() in said else stream.last_words()
        yield stream, host_program.answer_of(code, said, words.encode())
    finally:
        late.cancel()
        stream.close()


def program() -> str:
    """Return the program that hosts run, as text."""
    return host_program.program("relay")


def loader() -> list[str]:
    """Return the command that reads the program from standard input and runs it."""
    code = f"import sys;exec(compile(sys.stdin.buffer.read({len(program().encode())}),'roomful','exec'))"
    return ["python3", "-I", "-S", "-c", code]


def framed(request: dict[str, Any]) -> bytes:
    """Return a request as the program reads it."""
    packed = zlib.compress(json.dumps(request).encode(), 1)
    return b"%08d" % len(packed) + packed


def hop_argv(user: str, address: str, port: int) -> list[str]:
    """Return the command by which a host starts the program on the next one, whose key must be the one we know."""
    words = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": "KNOWN_HOSTS",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "roomful-next",
        "ConnectTimeout": "5",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "RequestTTY": "no",
        "Compression": "no",
        "ControlPath": "none",
        "LogLevel": "ERROR",
        "KexAlgorithms": KEX_ALGORITHMS,
        "Ciphers": CIPHERS,
    }
    options = [word for key, value in words.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", *options, "-p", str(port), "-l", user, "--", address, command_line(loader())]
