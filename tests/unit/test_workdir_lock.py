"""One deployment at a time in a workdir, whoever holds it, and marks of hosts on one disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from roomful.workdir import lock
from roomful.workdir.files import Refusal
from roomful.workdir.lock import Lock
from roomful.workdir.marks import leave_mark


def test_one_lock_holder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PAUSE_SECONDS", 0.001)
    inside, most, rounds = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, rounds
        for _ in range(20):
            with Lock(os.fsencode(tmp_path / "lock")) as held:
                inside += 1
                most = max(most, inside)
                held.renew(now=True)
                rounds += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, rounds) == (1, 120)
    assert os.listdir(tmp_path / "lock") == []


def test_a_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    held = Lock(os.fsencode(tmp_path / "lock"))
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    held.token = held.token.replace(b".%d." % os.getpid(), b".%d." % pid)
    held.__enter__()
    with Lock(os.fsencode(tmp_path / "lock")):
        pass
    with pytest.raises(Refusal, match="took over the lock"):
        held.renew(now=True)


def test_a_lock_of_another_machine_is_taken_over_only_when_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.4)
    monkeypatch.setattr(lock, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(lock, "_machine", lambda: f"machine-{threading.current_thread().name}")
    held = Lock(os.fsencode(tmp_path / "lock"))
    held.__enter__()
    taken = threading.Event()

    def take() -> None:
        with Lock(os.fsencode(tmp_path / "lock")):
            taken.set()

    thread = threading.Thread(target=take, name="other")
    thread.start()
    for _ in range(8):
        assert not taken.wait(0.1)
        held.renew(now=True)
    assert taken.wait(5)
    thread.join()


def test_hosts_on_one_disk_see_each_others_marks_of_the_same_run(tmp_path: Path) -> None:
    own = os.fsencode(tmp_path)
    assert leave_mark(own, "a", 0) == []
    assert leave_mark(own, "a", 3) == [0]
    assert leave_mark(own, "b", 1) == []
    assert sorted(leave_mark(own, "a", 1)) == [0, 3]
    os.utime(tmp_path / "marks" / "a.0", (1, 1))
    assert leave_mark(own, "b", 2) == [1]
    assert sorted(path.name for path in (tmp_path / "marks").iterdir()) == ["a.1", "a.3", "b.1", "b.2"]
