"""The handshake between two hosts without SSH, over real sockets: who gets in, who does not, and what stays open."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import socket
import threading
import time

import pytest

from roomful.workdir import direct
from roomful.workdir.direct import HELLO, NUMBER_BYTES, await_sender, dial
from roomful.workdir.files import Refusal
from tests.support.waiting import wait_until

SECRET = secrets.token_hex(32)


class Door:
    """A host that listens, in a thread; ``came`` gets the request of whoever got in, or the refusal."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.came: queue.Queue[bytes | Refusal] = queue.Queue()
        threading.Thread(target=self._wait, args=(seconds,), daemon=True).start()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        try:
            peer, request = await_sender(self.socket, SECRET, 7, lambda: time.monotonic() < end)
        except Refusal as refusal:
            self.came.put(refusal)
        else:
            self.came.put(request)
            peer.close()

    def is_open(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except ConnectionRefusedError:
            return False
        return True


def test_who_knows_the_secret_gets_in_and_nobody_after() -> None:
    door = Door()
    with dial("127.0.0.1", door.port, SECRET, 7, b"request" * 100_000):
        assert door.came.get(timeout=5) == b"request" * 100_000
    assert not door.is_open()


@pytest.mark.parametrize(
    ("secret", "index"), [(secrets.token_hex(32), 7), (SECRET, 8)], ids=["another secret", "meant for another host"]
)
def test_a_wrong_proof_does_not_get_in_and_closes_no_door(secret: str, index: int) -> None:
    door = Door()
    with pytest.raises(Refusal, match="does not know the secret"):
        dial("127.0.0.1", door.port, secret, index, b"evil")
    assert door.came.empty()
    with dial("127.0.0.1", door.port, SECRET, 7, b"good"):
        assert door.came.get(timeout=5) == b"good"


def test_a_stranger_that_goes_on_without_checking_us_does_not_get_in() -> None:
    door = Door()
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.sendall(HELLO + bytes(NUMBER_BYTES) + bytes(32) + b"00000004evil" + bytes(32))
        stranger.settimeout(5)
        said = b""
        # Hung up on with much of it unread, which is a reset.
        with contextlib.suppress(ConnectionResetError):
            while data := stranger.recv(1000):
                said += data
    assert len(said) <= NUMBER_BYTES + 32
    assert door.came.empty()


def test_a_request_that_was_changed_on_the_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    real = direct.Proof.of

    def of(self: direct.Proof, role: bytes, data: bytes = b"") -> bytes:
        return real(self, role, data.replace(b"evil", b"good") if threading.current_thread() is main else data)

    main = threading.current_thread()
    monkeypatch.setattr(direct.Proof, "of", of)
    with dial("127.0.0.1", door.port, SECRET, 7, b"evil") as peer:
        peer.settimeout(5)
        assert peer.recv(1) == b""
    assert door.came.empty()


def test_strangers_that_come_first_and_stay_keep_nobody_out() -> None:
    door = Door()
    strangers = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(direct.MOST_PEERS - 1)]
    try:
        with dial("127.0.0.1", door.port, SECRET, 7, b"good"):
            assert door.came.get(timeout=5) == b"good"
    finally:
        for stranger in strangers:
            stranger.close()


def test_who_asked_is_there_as_long_as_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "CALLER_SECONDS", 0.5)
    ours, theirs = os.pipe()
    caller = direct.Caller(ours)
    for _ in range(8):
        os.write(theirs, b".")
        time.sleep(0.1)
        assert caller.is_there()
    wait_until(lambda: not caller.is_there(), 5)
    os.write(theirs, b".")
    wait_until(caller.is_there, 5)
    os.close(theirs)
    monkeypatch.setattr(direct, "CALLER_SECONDS", 1000.0)
    wait_until(lambda: not caller.is_there(), 5)


def test_the_door_closes_when_nobody_is_wanted_any_more() -> None:
    door = Door(seconds=0.2)
    came = door.came.get(timeout=5)
    assert isinstance(came, Refusal)
    assert came.reason == "timeout"
    assert not door.is_open()


def test_an_impostor_in_the_listener_s_place_gets_neither_request_nor_payload() -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        heard: list[bytes] = []

        def listen() -> None:
            peer, _ = impostor.accept()
            with peer:
                peer.sendall(bytes(NUMBER_BYTES) + bytes(32))
                while data := peer.recv(1000):
                    heard.append(data)

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(Refusal):
            dial("127.0.0.1", impostor.getsockname()[1], SECRET, 7, b"request")
        thread.join(5)
    assert len(b"".join(heard)) == len(HELLO) + NUMBER_BYTES
