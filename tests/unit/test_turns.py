"""Who changes what on which hosts, and who has to wait for whom."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from roomful.hosts import Host
from roomful.settings import Settings
from roomful.turns import EVERYWHERE, Turn, turn

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
