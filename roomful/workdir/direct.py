"""A stream from one host to the next without SSH: who is at the other end is proved, what is in it can be read.

A host that is asked to listens on the address to which the controller came, on a port of the system's choice, for
some seconds, and to exactly one peer: the first that proves to know the relay's secret, which every host got over SSH
and which never travels here. Both sides prove it over numbers that the other has just drawn::

    sender    HELLO, its number
    listener  its number, proof "listener"
    sender    proof "sender", length, request, proof "request" over it
    sender    the payload
    listener  the answer

The request is proved because it holds commands. The payload is not: the digests that the controller sends over SSH
prove it before anything of it becomes current.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from roomful.workdir.files import Refusal

HELLO = b"roomful1"
NUMBER_BYTES = 32
PROOF_BYTES = 32
#: A connection must be made, and both sides must have proved who they are, within this time.
HANDSHAKE_SECONDS = 3.0
#: Peers that are listened to at the same time; strangers beyond are hung up on.
MOST_PEERS = 16
LONGEST_REQUEST = 1 << 26


class Proof:
    """The proofs of one connection. ``secret`` is in hexadecimal digits, ``index`` the listener's."""

    def __init__(self, secret: str, index: int, sender: bytes, listener: bytes) -> None:
        self._key = bytes.fromhex(secret)
        self._about = b"%d\0" % index + sender + listener

    def of(self, role: bytes, data: bytes = b"") -> bytes:
        return hmac.new(self._key, role + b"\0" + self._about + data, hashlib.sha256).digest()

    def check(self, role: bytes, said: bytes, data: bytes = b"") -> None:
        """Raise Refusal for a proof that is none."""
        if not hmac.compare_digest(self.of(role, data), said):
            raise Refusal("auth", "the peer does not know the secret of this relay")


def exactly(peer: socket.socket, count: int, deadline: float) -> bytes:
    """Read so many bytes; raises TimeoutError at the deadline, however slowly they drip."""
    data = b""
    while len(data) < count:
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        more = peer.recv(min(count - len(data), 1 << 16))
        if not more:
            raise Refusal("lost", "the peer hung up")
        data += more
    return data


def dial(address: str, port: int, secret: str, index: int, packed: bytes) -> socket.socket:
    """Connect to a host that listens, and hand it a request; raises OSError and Refusal."""
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    peer = socket.create_connection((address, port), HANDSHAKE_SECONDS)
    try:
        number = secrets.token_bytes(NUMBER_BYTES)
        peer.sendall(HELLO + number)
        proof = Proof(secret, index, number, exactly(peer, NUMBER_BYTES, deadline))
        proof.check(b"listener", exactly(peer, PROOF_BYTES, deadline))
        peer.sendall(proof.of(b"sender") + b"%08d" % len(packed) + packed + proof.of(b"request", packed))
        peer.settimeout(None)
    except BaseException:
        peer.close()
        raise
    return peer


def admit(peer: socket.socket, secret: str, index: int) -> bytes:
    """Return the request of a peer that proves to be the sender; raises OSError and Refusal."""
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    peer.settimeout(HANDSHAKE_SECONDS)
    if exactly(peer, len(HELLO), deadline) != HELLO:
        raise Refusal("protocol", "the peer is not the sender")
    sender, own = exactly(peer, NUMBER_BYTES, deadline), secrets.token_bytes(NUMBER_BYTES)
    proof = Proof(secret, index, sender, own)
    peer.sendall(own + proof.of(b"listener"))
    proof.check(b"sender", exactly(peer, PROOF_BYTES, deadline))
    length = exactly(peer, 8, deadline)
    if not length.isdigit() or int(length) > LONGEST_REQUEST:
        raise Refusal("protocol", "a request of no sensible length")
    packed = exactly(peer, int(length), deadline)
    proof.check(b"request", exactly(peer, PROOF_BYTES, deadline), packed)
    peer.settimeout(None)
    return packed


def await_sender(door: socket.socket, secret: str, index: int, seconds: float) -> tuple[socket.socket, bytes]:
    """Return the first peer that proves to be the sender, with its request, and close the door behind it.

    Strangers neither pass nor keep it waiting. Raises Refusal when nobody came in time.
    """
    admitted: queue.Queue[tuple[socket.socket, bytes]] = queue.Queue()
    places = threading.BoundedSemaphore(MOST_PEERS)

    def meet(peer: socket.socket) -> None:
        try:
            admitted.put((peer, admit(peer, secret, index)))
        except (OSError, Refusal):
            peer.close()
        finally:
            places.release()

    def open_to_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = door.accept()
                if places.acquire(blocking=False):
                    threading.Thread(target=meet, args=(peer,), daemon=True).start()
                else:
                    peer.close()

    threading.Thread(target=open_to_all, daemon=True).start()
    try:
        return admitted.get(timeout=seconds)
    except queue.Empty:
        raise Refusal("timeout", "no sender came") from None
    finally:
        # Closing alone would let who waits in accept() wait on, and the port stay open.
        with contextlib.suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
        door.close()


def open_door(work: Callable[[socket.socket], None]) -> dict[str, Any] | None:
    """Listen in a process of its own; returns where, None where this host does not know its own address.

    ``work`` gets the listening socket in that process, which ends with it.
    """
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4 or "%" in words[2]:
        return None
    family = socket.AF_INET6 if ":" in words[2] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        door.bind((words[2], 0))
        door.listen(MOST_PEERS)
        where = {"address": words[2], "port": door.getsockname()[1]}
        if os.fork() == 0:
            try:
                os.setsid()
                # Whoever asked waits until nobody holds these.
                nothing = os.open(os.devnull, os.O_RDWR)
                for number in range(3):
                    os.dup2(nothing, number)
                work(door)
            finally:
                os._exit(0)
    return where
