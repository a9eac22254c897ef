"""The next host on a payload's way: how it is reached, what it is sent, and what it says at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from roomful.workdir.direct import dial
from roomful.workdir.files import ANSWER, Refusal
from roomful.workdir.seed import Seed

#: A neighbour from whom nothing comes and to whom nothing goes for this long is given up.
STALL_SECONDS = 20.0
#: Over SSH the program on the next host must have started within this time.
REACH_SECONDS = 10.0
#: So many hosts are tried in their order until one is reached.
MOST_TRIES = 2
#: After so many hosts in a row whose doors were silent, while SSH led to them, no more doors are tried.
MOST_SILENT = 2
#: Hosts that wait for those after them say so this often.
ALIVE_SECONDS = 5.0
ALIVE = b"."
#: Linux's F_SETPIPE_SZ, which Python names since 3.10, and the most that it grants everyone.
_SET_PIPE_SIZE = 1031
PIPE_BYTES = 1 << 20


class Hop:
    """Sends a seed on to the next host that can be reached, in a thread of its own.

    Where the relay may do without SSH and the next host listens, it goes directly; where that fails, over SSH. There
    the same program is started, whose key must be the one that the controller knows.
    """

    def __init__(self, request: dict[str, Any], seed: Seed) -> None:
        self._request = request
        self._hop: dict[str, Any] = {}
        self._after: list[dict[str, Any]] = []
        self._seed = seed
        self._abort: Callable[[], object] = lambda: None
        self._moved = time.monotonic()
        self._said = b""
        self._reached = False
        self._directly = False
        self._silent = False
        self._given_up = False
        self._missed: list[int] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(self, alive: Callable[[], object]) -> dict[str, Any]:
        """Wait for the next host's answer: who has the payload, whom it reached without SSH, which ways were closed.

        ``alive`` is called now and then as long as something moves.
        """
        told = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.5)
            now = time.monotonic()
            if now - self._moved > STALL_SECONDS and not self._given_up:
                self._given_up = True
                with contextlib.suppress(OSError):
                    self._abort()
            if now - told > ALIVE_SECONDS and self._moved > told:
                told = now
                alive()
        missed = [[self._request["index"], index] for index in self._missed]
        try:
            answer = json.loads(self._said.rpartition(ANSWER.encode())[2])
            have = [int(index) for index in answer["have"]]
            directly = [int(index) for index in answer["directly"]]
            missed += [[int(one), int(other)] for one, other in answer["missed"]]
        except (ValueError, KeyError, TypeError):
            broken = [[self._request["index"], self._hop["index"]]] if self._reached else []
            return {"have": [], "directly": [], "missed": missed + broken}
        directly += have[:1] if self._directly else []
        return {"have": have, "directly": directly, "missed": missed}

    def _work(self) -> None:
        hops = self._request["hops"]
        for number, hop in enumerate(hops[:MOST_TRIES]):
            self._hop, self._after = hop, hops[number + 1 :]
            self._advance()
            with contextlib.suppress(OSError, Refusal):
                peer = self._dialled()
                if peer is not None:
                    self._reached = self._directly = True
                    with peer:
                        self._send_directly(peer)
                else:
                    self._advance()
                    self._send_over_ssh()
            # One that was reached and is lost again has taken those behind it along.
            if self._reached or self._given_up:
                return
            self._missed.append(hop["index"])

    def _advance(self) -> None:
        self._moved = time.monotonic()

    def _packed(self, **changes: Any) -> bytes:
        hop = self._hop
        names = {"source": "stdin", "door": None, "index": hop["index"], "seed": hop["seed"], "hops": self._after}
        silent = {"silent": self._request["silent"] + self._silent}
        return zlib.compress(json.dumps({**self._request, **names, **silent, **changes}).encode(), 1)

    def _dialled(self) -> socket.socket | None:
        door, secret = self._hop.get("door"), self._request["secret"]
        if not door or not secret or self._request["silent"] >= MOST_SILENT:
            return None
        try:
            # The secret stays out of what can be read on the way; who listens has it.
            packed = self._packed(secret="", silent=0)
            return dial(door["address"], door["port"], secret, self._hop["index"], packed)
        except TimeoutError:
            self._silent = True
        except (OSError, Refusal):
            self._silent = False
        return None

    def _send_directly(self, peer: socket.socket) -> None:
        # Not close(): it would wake nobody who waits.
        self._abort = lambda: peer.shutdown(socket.SHUT_RDWR)
        try:
            self._seed.feed(peer.fileno(), self._advance)
        except (OSError, Refusal):
            self._abort()
            raise
        peer.shutdown(socket.SHUT_WR)
        self._listen(lambda: peer.recv(1 << 16))

    def _send_over_ssh(self) -> None:
        handle, known_hosts = tempfile.mkstemp(prefix="roomful-known-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self._hop["host_key"] + "\n")
            argv = [word.replace("KNOWN_HOSTS", known_hosts) for word in self._hop["argv"]]
            with subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            ) as process:
                self._abort = process.kill
                late = threading.Timer(REACH_SECONDS, process.kill)
                late.daemon = True
                late.start()
                try:
                    self._converse(process, late)
                except (OSError, Refusal):
                    process.kill()
                    raise
                finally:
                    late.cancel()
        finally:
            os.unlink(known_hosts)

    def _converse(self, process: subprocess.Popen[bytes], late: threading.Timer) -> None:
        pipe, answer = process.stdin, process.stdout
        assert pipe is not None
        assert answer is not None
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, _SET_PIPE_SIZE, PIPE_BYTES)
        packed = self._packed()
        hello = memoryview(self._request["program"].encode() + b"%08d" % len(packed) + packed)
        while hello:
            hello = hello[os.write(pipe.fileno(), hello) :]
        # The program there says at once that it runs: until then nobody has been reached.
        self._said = os.read(answer.fileno(), 1 << 16)
        late.cancel()
        if not self._said:
            return
        self._reached = True
        self._advance()
        self._seed.feed(pipe.fileno(), self._advance)
        pipe.close()
        self._listen(lambda: os.read(answer.fileno(), 1 << 16))

    def _listen(self, read: Callable[[], bytes]) -> None:
        while True:
            data = read()
            if not data:
                return
            self._said += data
            self._advance()
