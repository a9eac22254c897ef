"""What stays in the spool, and what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from roomful.agent.keys import Keys
from roomful.agent.spool import Spool
from roomful.agent.tuning import Tuning


class Known:
    """A queue that knows some tasks."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        assert key == "{roomful:c}:task"
        return [b"payload" if name in self.ids else None for name in names]


@pytest.mark.parametrize(
    ("settings", "known", "kept"),
    [
        ({}, "123", ["1.1.stdout", "2.1.stderr", "3.2.stdout", "mine"]),
        ({}, "13", ["1.1.stdout", "3.2.stdout", "mine"]),
        ({"spool_seconds": "150"}, "123", ["2.1.stderr", "3.2.stdout", "mine"]),
        ({"spool_bytes": "250"}, "123", ["2.1.stderr", "3.2.stdout", "mine"]),
        ({"spool_bytes": "50"}, "123", ["mine"]),
    ],
    ids=["all", "forgotten", "too old", "too much", "one too much"],
)
def test_what_stays(tmp_path: Path, settings: dict[str, str], known: str, kept: list[str]) -> None:
    for name, age in (("1.1.stdout", 200), ("2.1.stderr", 100), ("3.2.stdout", 0), ("mine", 10_000)):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (0, time.time() - age))
    spool = Spool(str(tmp_path), Keys("c"), Tuning("host", settings))
    removed = spool.tidy(Known(*known))
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert removed == 4 - len(kept)
