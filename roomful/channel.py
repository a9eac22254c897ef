"""One command on one channel: feed its input, read its two streams byte for byte, keep the deadline."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import paramiko

#: Bytes read from a channel at a time.
CHUNK = 1 << 16


@dataclass(frozen=True)
class Input:
    """What a command gets to read, and whether its standard input ends after that."""

    data: bytes
    close: bool


def converse(
    channel: paramiko.Channel,
    stdin: Input,
    deadline: float,
    on_output: Callable[[str, bytes], None] | None,
) -> tuple[bytes, bytes, int]:
    """Feed stdin and read both streams until the command's end; raises TimeoutError at the deadline."""
    event = threading.Event()
    channel.in_buffer.set_event(event)
    channel.in_stderr_buffer.set_event(event)
    if len(stdin.data) > CHUNK // 2:
        threading.Thread(target=_feed, args=(channel, stdin), daemon=True, name="stdin").start()
    else:
        _feed(channel, stdin)
    parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    while True:
        ended = channel.eof_received or channel.closed
        moved = False
        for name, waiting, read in (
            ("stdout", channel.recv_ready, channel.recv),
            ("stderr", channel.recv_stderr_ready, channel.recv_stderr),
        ):
            while waiting():
                moved = True
                chunk = read(CHUNK)
                if on_output:
                    on_output(name, chunk)
                else:
                    parts[name].append(chunk)
        if ended and not moved:
            break
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if not moved:
            event.wait(min(remaining, 1.0))
            event.clear()
    if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    return b"".join(parts["stdout"]), b"".join(parts["stderr"]), channel.exit_status


def _feed(channel: paramiko.Channel, stdin: Input) -> None:
    # The command may end without reading its input; its exit code tells the story then.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        if stdin.data:
            channel.sendall(stdin.data)
        if stdin.close:
            channel.shutdown_write()
