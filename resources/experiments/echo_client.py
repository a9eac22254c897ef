"""The other side: requests of a size, a number of times. Arguments: address, port, size, requests."""

from __future__ import annotations

import socket
import sys
import time

if __name__ == "__main__":
    address, port, size, requests = sys.argv[1], *map(int, sys.argv[2:])
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        for number in range(requests):
            sent = time.perf_counter()
            connection.sendall(bytes(size))
            missing = size
            while missing:
                missing -= len(connection.recv(missing))
            if number % 50 == 0:
                print(f"latency_us={(time.perf_counter() - sent) * 1e6:.1f}")
        print(f"requests_per_second={requests / (time.perf_counter() - begin):.0f}")
