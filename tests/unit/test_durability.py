"""When a write is on disk, by what a server says of its syncs."""

from __future__ import annotations

import pytest

from roomful import durability
from roomful.durability import DiskWatch, Persistence

INFO = b"# Persistence\r\nloading:0\r\naof_enabled:%d\r\naof_last_write_status:%b\r\naof_pending_bio_fsync:%d\r\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INFO % (1, b"ok", 0), Persistence(kept=True, syncing=False, sound=True)),
        (INFO % (1, b"ok", 2), Persistence(kept=True, syncing=True, sound=True)),
        (INFO % (1, b"err", 1), Persistence(kept=True, syncing=True, sound=False)),
        (b"# Persistence\r\naof_enabled:0\r\naof_last_write_status:ok\r\n", Persistence(False, False, True)),
    ],
)
def test_what_the_server_says(text: bytes, expected: Persistence) -> None:
    assert Persistence.parse(text) == expected


@pytest.mark.parametrize(
    ("seen", "synced_at"),
    [
        # One letter each tenth of a second: a sync is under way, or none is.
        ("-s-", 2),
        ("-sss-", 4),
        ("sss---------------", 15),
        ("s-s-", 3),
        ("--------------", 12),
        ("-s", None),
        ("ssssssssssssssssssssss", None),
        ("-----------", None),
    ],
    ids=["seen", "long", "began before", "the next one", "too quick to see", "under way", "held up", "too early"],
)
def test_a_write_is_on_disk_after_a_sync_that_began_after_it(
    monkeypatch: pytest.MonkeyPatch, seen: str, synced_at: int | None
) -> None:
    monkeypatch.setattr(durability, "SYNC_EVERY_SECONDS", 1.2)
    watch = DiskWatch()
    looks = [
        watch.look(Persistence(True, letter == "s", True), tenth / 10 + 0.001 * tenth)
        for tenth, letter in enumerate(seen)
    ]
    assert (looks.index(True) if True in looks else None) == synced_at
