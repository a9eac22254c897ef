"""When what was written is on the server's disk, by what the server tells of its append-only file.

A server that syncs once a second ends each turn of its loop like this: what the turn has changed is written, unless a
sync is under way, and then a sync is begun if the last one is a second old. So a sync that begins after a moment in
which none was under way holds all that was written before that moment. Whoever has the file on his own machine need
not wait for that second: he can sync it himself, once the server says that nothing is kept back.

WAITAOF was made to tell the same, but answers before the sync since Redis 7.2.2 (https://github.com/redis/redis/pull/13793),
as Valkey 9.1 does: seen with a sync that was held up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A sync begins within a second and a turn of the server's loop, a tenth of a second at most.
SYNC_EVERY_SECONDS = 1.2


@dataclass(frozen=True)
class Persistence:
    """What ``INFO persistence`` says."""

    #: Whether there is an append-only file at all.
    kept: bool
    syncing: bool
    #: Whether the last write and the last sync were without an error.
    sound: bool

    @classmethod
    def parse(cls, text: bytes) -> Persistence:
        """Read the reply to ``INFO persistence``."""
        return cls.of(dict(line.split(":", 1) for line in text.decode().split() if ":" in line))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Persistence:
        """Take the same from its fields."""
        enabled, pending = (str(fields.get(f"aof_{name}", 0)) for name in ("enabled", "pending_bio_fsync"))
        return cls(enabled != "0", pending != "0", fields.get("aof_last_write_status") == "ok")


class DiskWatch:
    """Follows the server from a write on."""

    def __init__(self) -> None:
        self._idle_since: float | None = None
        self._begun = False

    def look(self, seen: Persistence, now: float) -> bool:
        """Note what the server said, before ``now`` and after the write; tell whether the write has been synced."""
        if seen.syncing:
            self._begun = self._idle_since is not None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return self._begun or now - self._idle_since >= SYNC_EVERY_SECONDS


def sync_files(folder: Path) -> bool:
    """Have the disk take all that was written to the files in a server's folder; False where that cannot be done."""
    try:
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        for path in paths:
            # One that the server has just replaced is on disk in another form.
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
    except OSError:
        return False
    return bool(paths)
