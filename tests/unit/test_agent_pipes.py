"""A pipe serves the next task only if nobody can write to it any more."""

from __future__ import annotations

import os
import stat

import pytest

from roomful.agent.capture import INLINE_BYTES, Capture
from roomful.agent.pipes import MOST_KEPT, Pipes


def identity(fd: int) -> int:
    """Tell one pipe from another."""
    info = os.fstat(fd)
    assert stat.S_ISFIFO(info.st_mode)
    return info.st_ino


def capture(pipes: Pipes, data: bytes) -> tuple[int, bytes]:
    """Write and close, as a task does; return which pipe it was, and what was captured."""
    reading, writing = pipes.take()
    stream = Capture(reading, os.devnull, pipes)
    number = identity(reading)
    os.write(writing, data)
    os.close(writing)
    stream.drain()
    return number, stream.close()


def test_a_pipe_is_used_again_and_carries_only_what_is_new() -> None:
    pipes = Pipes()
    first, said = capture(pipes, b"one")
    assert said == b"\none"
    second, said = capture(pipes, b"")
    assert (second, said) == (first, b"")
    third, said = capture(pipes, b"three")
    assert (third, said) == (first, b"\nthree")


@pytest.mark.parametrize("discard", [False, True])
def test_who_still_holds_a_writing_end_cannot_write_into_the_next_tasks_output(discard: bool) -> None:
    pipes = Pipes()
    reading, writing = pipes.take()
    stream = Capture(reading, os.devnull, pipes)
    held_elsewhere = os.dup(writing)
    os.close(writing)
    stream.drain()
    if discard:
        stream.discard()
    else:
        stream.close()
    before = os.fstat(held_elsewhere).st_ino
    again, new_writing = pipes.take()
    try:
        assert identity(again) != before
        with pytest.raises(BrokenPipeError):
            os.write(held_elsewhere, b"late")
    finally:
        for fd in (again, new_writing, held_elsewhere):
            os.close(fd)


def test_a_pipe_that_was_made_larger_is_not_kept() -> None:
    pipes = Pipes()
    reading, writing = pipes.take()
    stream = Capture(reading, os.devnull, pipes)
    for _ in range(4):
        os.write(writing, b"x" * (INLINE_BYTES // 2))
        stream.read()
    os.close(writing)
    stream.drain()
    stream.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_only_so_many_are_kept() -> None:
    pipes = Pipes()
    ends = [pipes.take() for _ in range(MOST_KEPT + 3)]
    for reading, writing in ends:
        os.close(writing)
        pipes.give(reading, at_end=True)
    still_open = [reading for reading, _ in ends if os.path.exists(f"/proc/self/fd/{reading}")]
    assert len(still_open) == MOST_KEPT
    for reading in still_open:
        os.close(reading)
