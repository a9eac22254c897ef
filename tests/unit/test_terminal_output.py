"""What appears on a terminal: bars that come late and give way to questions, tables that fit."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import time
from collections.abc import Iterator

import pytest

from fabfile._fanout import show_table
from roomful import progress
from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes
from tests.support.terminal import read_all

BAR = "━".encode()


@contextlib.contextmanager
def terminal(columns: int = 80) -> Iterator[int]:
    """Let standard output and error be a terminal; yields its other end."""
    ours, theirs = pty.openpty()
    # In the test itself: pytest puts its own streams back after a fixture.
    with os.fdopen(theirs, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "stdout", stream)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(columns))
        try:
            yield ours
        finally:
            os.close(ours)


def test_a_bar_appears_when_something_takes_long() -> None:
    with terminal() as screen, progress.bar("work", 3, "hosts") as report:
        report(1, 3, "")
        assert BAR in read_all(screen, until=lambda seen: BAR in seen, seconds=5)


def test_what_is_refused_at_once_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_SECONDS", 5.0)
    begin = time.monotonic()
    with terminal() as screen:
        with pytest.raises(ValueError, match="no"), progress.bar("work", 3):
            raise ValueError("no")
        assert time.monotonic() - begin < 3
        assert BAR not in read_all(screen, seconds=0.3)


def test_a_question_has_the_screen_to_itself() -> None:
    with terminal() as screen, progress.bar("work", 3) as report:
        read_all(screen, until=lambda seen: BAR in seen, seconds=5)
        with progress.paused():
            read_all(screen, seconds=0.2)
            report(2, 3, "")
            # Twice as long as a bar needs to appear, and many times that between two of its drawings.
            assert read_all(screen, seconds=2 * progress.DELAY_SECONDS) == b""
        assert BAR in read_all(screen, until=lambda seen: BAR in seen, seconds=5)


@pytest.mark.parametrize(("columns", "fits"), [(100, True), (40, False)])
def test_a_table_too_wide_for_the_terminal_leaves_out_details_and_empty_columns(columns: int, fits: bool) -> None:
    outcomes: Outcomes[None] = Outcomes(
        [Outcome(Host("a"), "ok"), Outcome(Host("b"), "failed", "lost", "the connection broke")]
    )
    with terminal(columns) as screen:
        assert show_table(outcomes, lambda outcome: {"empty": "", "count": 7}) is fits
        sys.stdout.flush()
        header = read_all(screen, seconds=0.3).decode().splitlines()[0].split()
    wide = ["host", "status", "reason", "empty", "count", "seconds", "detail"]
    assert header == (wide if fits else ["host", "status", "reason", "count", "seconds"])


def test_a_table_keeps_within_a_narrow_terminal_and_says_what_it_leaves_out() -> None:
    outcomes: Outcomes[None] = Outcomes(Outcome(Host(f"host{number:02}.example.org"), "ok") for number in range(6))

    def columns(outcome: Outcome[None]) -> dict[str, str]:
        cells = {"free memory": "21.5 GiB", "free disk": "48.0 MiB", "python": "3.11.2", "clock": "ok"}
        return {**cells, "warnings": "busy: load 8.48 on 2 CPUs"}

    with terminal(60) as screen:
        show_table(outcomes, columns)
        lines = read_all(screen, seconds=0.3).decode().splitlines()
    assert max(map(len, lines[:8])) <= 60
    assert lines[0].split() == ["host", "status", "free", "memory", "free", "disk", "python"]
    assert lines[8:] == [
        "left out, for want of room: clock; a wider terminal, a pipe and --json have all",
        "host[00-05].example.org: busy: load 8.48 on 2 CPUs",
    ]


def test_a_pipe_always_gets_the_whole_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    assert show_table(Outcomes([Outcome(Host("b"), "failed", "lost", "the connection broke")]))
    assert "the connection broke" in capsys.readouterr().out
