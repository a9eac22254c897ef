"""What stays in the spool, and what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from roomful.agent.keys import Keys
from roomful.agent.spool import Spool
from roomful.agent.tuning import Tuning

#: The server's clock, which need not be ours.
NOW = 1_000_000


class Known:
    """A queue that knows some tasks: by id, how many seconds ago they have ended; None: they have not."""

    def __init__(self, tasks: dict[str, int | None]) -> None:
        self.tasks = tasks

    def time(self) -> tuple[int, int]:
        return NOW, 0

    def hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        if key == "{roomful:c}:task":
            return [b"payload" if name in self.tasks else None for name in names]
        assert key == "{roomful:c}:result"
        return [self._result(self.tasks.get(name)) for name in names]

    def _result(self, ago: int | None) -> bytes | None:
        return None if ago is None else b"done,1,5,%d,7,host#1\n{}" % ((NOW - ago) * 1000)


TASKS: dict[str, int | None] = {"1": 200, "2": 100, "3": None}


@pytest.mark.parametrize(
    ("settings", "known", "kept"),
    [
        ({}, TASKS, ["1.1.stdout", "2.1.stderr", "3.2.stdout", "mine"]),
        ({}, {"1": 200, "3": None}, ["1.1.stdout", "3.2.stdout", "mine"]),
        ({"spool_seconds": "150"}, TASKS, ["2.1.stderr", "3.2.stdout", "mine"]),
        ({"spool_seconds": "150"}, dict.fromkeys("123"), ["1.1.stdout", "2.1.stderr", "3.2.stdout", "mine"]),
        ({"spool_bytes": "250"}, TASKS, ["2.1.stderr", "3.2.stdout", "mine"]),
        ({"spool_bytes": "50"}, TASKS, ["mine"]),
    ],
    ids=["all", "forgotten", "too old", "not ended", "too much", "one too much"],
)
@pytest.mark.parametrize("clock", [0, -1_000_000_000], ids=["right", "set meanwhile"])
def test_what_stays(
    tmp_path: Path, settings: dict[str, str], known: dict[str, int | None], kept: list[str], clock: int
) -> None:
    for name, age in (("1.1.stdout", 200), ("2.1.stderr", 100), ("3.2.stdout", 0), ("mine", 10_000)):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (0, time.time() + clock - age))
    spool = Spool(str(tmp_path), Keys("c"), Tuning("host", settings))
    removed = spool.tidy(Known(known))
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert removed == 4 - len(kept)
