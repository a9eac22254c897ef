"""A stream from one host to the next without SSH: who is at the other end is proved, what is in it can be read.

A host that is asked to listens on the address to which the controller came, on a port of the system's choice, as long
as it hears from the controller, and to exactly one peer: the first that proves to know the relay's secret, which all
hosts got over SSH and which never travels here. Both sides prove it over numbers that the other has just drawn::

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

from roomful.workdir.files import Refusal

HELLO = b"roomful1"
NUMBER_BYTES = 32
PROOF_BYTES = 32
#: A connection must be made, and both sides must have proved who they are, within this time.
HANDSHAKE_SECONDS = 3.0
#: Peers that are listened to at the same time; strangers beyond are hung up on.
MOST_PEERS = 16
#: A controller that was not heard for this long is gone, and with it the reason to listen.
CALLER_SECONDS = 5.0
POLL_SECONDS = 0.1
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


class Caller:
    """Whoever asked this host to listen, and says on standard input now and then that it is still there."""

    def __init__(self, handle: int) -> None:
        self._heard = time.monotonic()
        self._gone = False
        threading.Thread(target=self._listen, args=(handle,), daemon=True).start()

    def is_there(self) -> bool:
        return not self._gone and time.monotonic() - self._heard < CALLER_SECONDS

    def _listen(self, handle: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(handle, 1 << 10):
                self._heard = time.monotonic()
        self._gone = True


def await_sender(
    door: socket.socket, secret: str, index: int, wanted: Callable[[], bool]
) -> tuple[socket.socket, bytes]:
    """Return the first peer that proves to be the sender, with its request, and close the door behind it.

    Strangers neither pass nor keep it waiting. Raises Refusal when nobody came as long as that was ``wanted``.
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
        while wanted():
            with contextlib.suppress(queue.Empty):
                return admitted.get(timeout=POLL_SECONDS)
        raise Refusal("timeout", "no sender came")
    finally:
        # Closing alone would let who waits in accept() wait on, and the port stay open.
        with contextlib.suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
        door.close()


def open_door() -> socket.socket | None:
    """Listen where the controller came to; None where this host does not know that address of its own."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4 or "%" in words[2]:
        return None
    door = socket.socket(socket.AF_INET6 if ":" in words[2] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.bind((words[2], 0))
        door.listen(MOST_PEERS)
    except OSError:
        door.close()
        return None
    return door
