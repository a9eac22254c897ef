"""Who changes what on which hosts: who has to wait for whom, and what a killed step leaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from roomful.hosts import Host
from roomful.settings import Settings
from roomful.turns import EVERYWHERE, Turn, turn

CHECKOUT = Path(__file__).parents[2]
A, B, C = Host("a"), Host("b"), Host("c")


def nobody(other: Turn) -> None:
    pytest.fail(f"waits for {other}")


@pytest.mark.parametrize(
    ("place", "hosts"),
    [("", (C,)), ("data", (A, B))],
    ids=["other hosts", "another folder"],
)
def test_what_does_not_meet_does_not_wait(tmp_path: Path, place: str, hosts: tuple[Host, ...]) -> None:
    settings = Settings(root=tmp_path)
    with turn("inv deploy", "", (A, B), settings, nobody), turn("inv deploy", place, hosts, settings, nobody):
        pass
    with turn("inv clean", EVERYWHERE, (A, B, C), settings, nobody):
        pass


@pytest.mark.parametrize("place", ["", EVERYWHERE])
def test_what_meets_waits_for_its_turn_and_says_for_whom(tmp_path: Path, place: str) -> None:
    settings = Settings(root=tmp_path)
    waits, first_over, order = threading.Event(), threading.Event(), []
    told: list[Turn] = []

    def on_wait(other: Turn) -> None:
        told.append(other)
        waits.set()

    def second() -> None:
        with turn("inv clean", place, (B, C), settings, on_wait):
            order.append(first_over.is_set())

    with turn("inv deploy", "", (A, B), settings, nobody):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        first_over.set()
    thread.join(10)
    assert order == [True]
    assert [(other.name, other.labels) for other in told] == [("inv deploy", frozenset({"a", "b"}))]
    assert list((tmp_path / ".roomful" / "turns").glob("[!.]*")) == []


def test_a_step_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from roomful.turns import turn; from roomful.hosts import Host;"
        "from roomful.settings import Settings; settings = Settings(root=pathlib.Path(os.sys.argv[1]))\n"
        "with turn('inv deploy', '', [Host('a')], settings, print): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=CHECKOUT, check=False, timeout=30)
    assert done.returncode == -9
    assert len(list((tmp_path / ".roomful" / "turns").glob("[!.]*"))) == 1
    with turn("inv clean", EVERYWHERE, (A,), Settings(root=tmp_path), nobody):
        assert len(list((tmp_path / ".roomful" / "turns").glob("[!.]*"))) == 1
