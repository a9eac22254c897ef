"""A program that is measured: it sends back what it gets. Arguments: the address to listen on."""

from __future__ import annotations

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    """Serve one connection."""

    def handle(self) -> None:
        """Send back every byte."""
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    """Serve many."""

    allow_reuse_address = daemon_threads = True


if __name__ == "__main__":
    with Server((sys.argv[1], 0), Echo) as server:
        print(f"ready on port {server.server_address[1]}")
        server.serve_forever()
