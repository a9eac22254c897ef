"""Frames survive any cutting of the stream, and what is none is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.multiplex import launcher_argv, launcher_source
from roomful.remote import frames

FRAME = st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=40))


@given(st.lists(FRAME, max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=50))
def test_frames_come_whole_however_the_stream_is_cut(sent: list[frames.Frame], cuts: list[int]) -> None:
    stream = b"".join(frames.pack(*frame) for frame in sent)
    unpacker = frames.Unpacker()
    got = []
    while stream:
        size = cuts.pop(0) if cuts else len(stream)
        piece, stream = stream[:size], stream[size:]
        got += list(unpacker.feed(piece))
    assert got == sent


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(frames.ProtocolError, match="not a frame: b'Welcome to"):
        list(frames.Unpacker().feed(b"Welcome to this host!\n" * 4))


def test_the_source_that_is_sent_is_a_program_and_its_reader_takes_no_byte_more() -> None:
    source = launcher_source()
    compile(source, "launcher", "exec")
    assert str(len(source)) in launcher_argv(len(source))[-1]
