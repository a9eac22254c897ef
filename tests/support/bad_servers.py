"""Servers that behave as broken SSH hosts do: on the loopback network, or in a lab host's place."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator


def silent(connection: socket.socket) -> None:
    """Accept and never say a word."""
    connection.recv(1)


def dripping(connection: socket.socket) -> None:
    """Send a byte of the banner every 0.2 s, for as long as anybody listens."""
    for _ in range(500):
        connection.sendall(b"x")
        threading.Event().wait(0.2)


def rambling(connection: socket.socket) -> None:
    """Send long lines that are no banner: OpenSSH counts no time for bytes that come within a millisecond."""
    for _ in range(1000):
        connection.sendall(b"please hold the line ".ljust(8000) + b"\n")


def flooding(connection: socket.socket) -> None:
    """Send lines that are no banner, without end."""
    for _ in range(100_000):
        connection.sendall(b"welcome to this machine, please hold the line\r\n")


def slamming(connection: socket.socket) -> None:
    """Close at once, as sshd does beyond MaxStartups."""


def half_way(connection: socket.socket) -> None:
    """Send a good banner and then nothing: the key exchange never comes."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    while connection.recv(4096):
        pass


@contextlib.contextmanager
def serve(behaviour: Callable[[socket.socket], None], where: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[str]:
    """Run a server that treats every connection like this; yields its ``host:port``."""
    listener = socket.create_server(where, backlog=64)

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            behaviour(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{where[0]}:{listener.getsockname()[1]}"
    finally:
        listener.close()


def slamming_at_first(times: int, target: tuple[str, int]) -> Callable[[socket.socket], None]:
    """Close the first connections at once and pass the later ones on to a real server."""
    left = [times]

    def behave(connection: socket.socket) -> None:
        if left[0] > 0:
            left[0] -= 1
            return
        with socket.create_connection(target) as server:
            threading.Thread(target=_pump, args=(server, connection), daemon=True).start()
            _pump(connection, server)

    return behave


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serve_instead(pid: int, behaviour: str, port: int) -> Iterator[None]:
    """Run a server in the network namespace of a process, by the name of its behaviour, until the block ends."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, __file__, behaviour, str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    with serve(globals()[sys.argv[1]], ("0.0.0.0", int(sys.argv[2]))) as own_address:
        sys.stdout.write(f"{own_address}\n")
        sys.stdout.flush()
        # Whoever started this lives as long as the pipe does.
        sys.stdin.read()
