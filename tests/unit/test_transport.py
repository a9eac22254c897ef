"""What paramiko does for each connection again, and the fan-out only once or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import paramiko
import pytest

from roomful.transport import READ_AHEAD, Packets, QuickTransport, ReadAhead


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class TestReadAhead:
    def test_all_that_has_come_is_taken_in_one_call(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        with ReadAhead(fileno=ours.detach()) as ahead:
            theirs.sendall(b"abcdef")
            assert ahead.recv(2) == b"ab"
            # Nothing is left for a second call: it would wait.
            with pytest.raises(BlockingIOError):
                socket.socket.recv(ahead, 1, socket.MSG_DONTWAIT)
            assert ahead.recv(3) == b"cde"
            assert ahead.recv(100) == b"f"

    def test_what_comes_later_follows_and_the_end_is_the_end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        with ReadAhead(fileno=ours.detach()) as ahead:
            theirs.sendall(b"ab")
            assert ahead.recv(1) == b"a"
            theirs.sendall(b"cd")
            assert ahead.recv(READ_AHEAD) == b"b"
            assert ahead.recv(READ_AHEAD) == b"cd"
            theirs.close()
            assert ahead.recv(1) == b""

    def test_a_transport_reads_ahead(self, pair: tuple[socket.socket, socket.socket]) -> None:
        transport = QuickTransport(pair[0])
        try:
            assert isinstance(transport.sock, ReadAhead)
            assert isinstance(transport.packetizer, Packets)
        finally:
            # It was never started, so that close() would do nothing.
            transport.sock.close()


class TestPackets:
    def test_the_key_exchange_has_a_deadline_without_a_thread(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        packets, before = Packets(pair[0]), threading.active_count()
        assert not packets.handshake_timed_out()
        packets.start_handshake(0.05)
        # Paramiko starts a thread for each connection here.
        assert threading.active_count() == before
        assert not packets.handshake_timed_out()
        time.sleep(0.06)
        assert packets.handshake_timed_out()

    def test_it_ends_with_the_key_exchange(self, pair: tuple[socket.socket, socket.socket]) -> None:
        packets = Packets(pair[0])
        packets.start_handshake(0.01)
        packets.complete_handshake()
        time.sleep(0.02)
        assert not packets.handshake_timed_out()

    def test_a_server_that_stops_in_the_middle_ends_the_transports_thread(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """start_client() has a deadline of its own; without this one its thread would read on for ever."""
        transport = QuickTransport(pair[0])
        transport.handshake_timeout = 0.3
        pair[1].sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        begin = time.monotonic()
        with pytest.raises((paramiko.SSHException, EOFError)):
            transport.start_client(timeout=20)
        assert time.monotonic() - begin < 5
        transport.join(5)
        assert not transport.is_alive()


def test_what_both_ends_compute_fastest_is_asked_for_first() -> None:
    assert QuickTransport.preferred_kex[0] == "ecdh-sha2-nistp256"
    assert QuickTransport.preferred_ciphers[0] == "aes128-gcm@openssh.com"
    # All others are there, for servers that have none of these.
    assert set(QuickTransport.preferred_kex) == set(paramiko.Transport._preferred_kex)
    assert set(QuickTransport.preferred_ciphers) == set(paramiko.Transport._preferred_ciphers)
