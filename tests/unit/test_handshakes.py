"""Handshakes: a limit for those that work, none for those that wait for their hosts."""

from __future__ import annotations

import threading
import time

import pytest

from roomful import handshakes
from roomful.handshakes import Handshakes


def test_no_more_than_the_limit_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "BUSY_SECONDS", 60.0)
    shared, lock = Handshakes(3), threading.Lock()
    now, most = 0, 0

    def work() -> None:
        nonlocal now, most
        with shared.slot():
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (now, most) == (0, 3)


def test_one_that_waits_for_its_host_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "BUSY_SECONDS", 0.05)
    shared, over = Handshakes(2), threading.Event()

    def hang() -> None:
        with shared.slot():
            over.wait(10)

    threads = [threading.Thread(target=hang) for _ in range(6)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    with shared.slot():
        assert time.monotonic() - begin < 5
    over.set()
    for thread in threads:
        thread.join(10)
    assert shared._begun == {}


def test_one_that_ends_makes_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "BUSY_SECONDS", 60.0)
    shared, entered = Handshakes(1), threading.Event()
    with shared.slot():
        thread = threading.Thread(target=lambda: _enter(shared, entered))
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join(5)


def _enter(shared: Handshakes, entered: threading.Event) -> None:
    with shared.slot():
        entered.set()
