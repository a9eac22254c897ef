"""Streams come back byte for byte, whatever their size and however they are cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.agent.capture import INLINE_BYTES, Capture
from roomful.agent.pipes import Pipes
from roomful.queue_wire import parse_output


def capture(pieces: list[bytes], path: Path) -> bytes:
    """Push pieces through a pipe and a capture; return what the queue would keep."""
    pipes = Pipes()
    reading, writing = pipes.take()
    stream = Capture(reading, str(path), pipes)
    for piece in pieces:
        for start in range(0, len(piece), 32768):
            os.write(writing, piece[start : start + 32768])
            stream.read()
    os.close(writing)
    stream.drain()
    assert not stream.open
    return stream.close()


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(0, 3))
def test_short_streams_are_kept_whole(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], more: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "never-made"
    pieces = pieces + [b"\n \xff\0" * 5000] * more
    output = parse_output(capture(pieces, path), "h")
    assert output.complete
    assert output.head == b"".join(pieces)
    assert not path.exists()


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, INLINE_BYTES + 40_000, 10 * INLINE_BYTES + 7])
def test_long_streams_are_whole_in_their_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    output = parse_output(capture([data], tmp_path / "1.1.stdout"), "h")
    assert output.size == size
    if size <= INLINE_BYTES:
        assert output.head == data
    else:
        assert (output.head, output.tail) == (data[: INLINE_BYTES // 2], data[-INLINE_BYTES // 2 :])
        assert Path(output.path).read_bytes() == data
        assert Path(output.path).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_cuts_the_file_and_says_so(tmp_path: Path) -> None:
    pipes = Pipes()
    reading, writing = pipes.take()
    stream = Capture(reading, "/dev/full", pipes)
    os.write(writing, b"x" * 60_000)
    stream.read()
    os.write(writing, b"y" * 60_000)
    os.close(writing)
    stream.drain()
    assert "No space left" in stream.trouble
    output = parse_output(stream.close(), "h")
    assert (output.size, output.path) == (120_000, "")
    assert not output.complete
    assert (output.head, output.tail) == (b"x" * 32768, b"y" * 32768)
