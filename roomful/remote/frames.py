"""What travels between the controller and the launcher on a host: frames, on one byte stream in each direction.

A frame is ``kind`` (1 byte), ``command`` (4 bytes), ``length`` (4 bytes, big endian), then ``length`` bytes.
``command`` is a number that the controller gives out, or 0 where a frame concerns none.

============  ===========================================================================================
to the host   payload
============  ===========================================================================================
START         JSON object, see `launcher.Job`; the answer is STARTED or FAILED
INPUT         bytes for the command's stdin; none: close it
SIGNAL        1 byte: the signal's number, sent to the command's process group
KILL          nothing: end the command's whole process tree, ``setsid`` and double forks included
CREDIT        1 byte (1 stdout, 2 stderr) and 4 bytes: so many more bytes of that stream may be sent
PING          nothing; the answer is PONG
LOAD          nothing; the answer is LOADED
============  ===========================================================================================

============  ===========================================================================================
from there    payload
============  ===========================================================================================
HELLO         JSON object about the host: pid, hostname, kernel, cpu, cpus, python
STARTED       JSON object: pid
FAILED        JSON object: error, a sentence; the command does not exist
OUTPUT        bytes of stdout; none: it is at its end
ERRORS        bytes of stderr; none: it is at its end
EXITED        4 bytes, signed: exit code, or minus the signal that ended the command's own process
CREDIT        4 bytes: so many more bytes of stdin may be sent
DEAF          nothing: the command's stdin takes no more, what is still sent is dropped
GONE          nothing: the last process of the command's tree has ended; its number means nothing any more
PONG          nothing
LOADED        JSON object: load, running, cpus, memory, memory_free, see `load.load`; error where it cannot tell
============  ===========================================================================================

Flow control: every stream of every command has its own allowance, so one that nobody reads stops nobody else.
stdin starts with ``INPUT_ALLOWANCE``, stdout and stderr with what START says. The launcher reads its own stdin at all
times. Either end takes silence for the loss of the other: the controller sends a PING a second.
"""

from __future__ import annotations

import struct
from typing import Iterator, Tuple

START, INPUT, SIGNAL, KILL, CREDIT, PING, LOAD = range(1, 8)
HELLO, STARTED, FAILED, OUTPUT, ERRORS, EXITED, DEAF, GONE, PONG, LOADED = range(16, 26)

HEADER = struct.Struct(">BII")
STATUS = struct.Struct(">i")
STREAM_CREDIT = struct.Struct(">BI")
INPUT_CREDIT = struct.Struct(">I")
#: Most bytes in one frame; a longer one means that the stream is not ours.
LARGEST = 4 << 20
#: Bytes of a command's stdin that may be on their way before the launcher has passed them on.
INPUT_ALLOWANCE = 1 << 18

Frame = Tuple[int, int, bytes]


class ProtocolError(Exception):
    """Report a byte stream that is not made of frames."""


def pack(kind: int, command: int = 0, payload: bytes = b"") -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(kind, command, len(payload)) + payload


class Unpacker:
    """Turn received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take in bytes; yield the frames that are complete. Raises ProtocolError."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER.size:
                kind, command, length = HEADER.unpack_from(buffer, at)
                if length > LARGEST:
                    raise ProtocolError(f"not a frame: {bytes(buffer[at : at + 40])!r}")
                end = at + HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[at + HEADER.size : end])
                at = end
                yield kind, command, payload
        finally:
            del buffer[:at]
