"""Outputs that are too large for the queue: files on the client, until they are fetched, forgotten or too old."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from typing import Any, NamedTuple

from roomful.agent.keys import Keys
from roomful.agent.tuning import Tuning

_NAME = re.compile(r"(\d+)\.(\d+)\.(stdout|stderr)")
#: Share of the file system that the spool may take, where the setting says 0.
DISK_SHARE = 0.1
#: Ids in one question to the queue.
_PAGE = 500


def ended_ms(result: bytes) -> int:
    """Return when the task of a record in ``result`` has ended (see ``lua/common.lua``)."""
    return int(result.split(b",", 4)[3])


class Entry(NamedTuple):
    """One stream of one attempt."""

    #: When it was last written to; only compared with that of the others.
    modified: float
    size: int
    path: str
    task_id: str


class Spool:
    """The folder of one agent, named in its files ``TASK.ATTEMPT.STREAM``."""

    def __init__(self, folder: str, keys: Keys, tuning: Tuning) -> None:
        self.folder = folder
        self._keys = keys
        self._tuning = tuning

    def base(self, task_id: int, number: int) -> str:
        """Return the path of an attempt's files, up to the name of the stream."""
        return os.path.join(self.folder, f"{task_id}.{number}")

    def entries(self) -> list[Entry]:
        """List the files, oldest first; others than ours are left alone."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as files:
            for file in files:
                match = _NAME.fullmatch(file.name)
                with contextlib.suppress(FileNotFoundError):
                    info = file.stat(follow_symlinks=False)
                    if match:
                        found.append(Entry(info.st_mtime, info.st_size, file.path, match[1]))
        return sorted(found)

    def tidy(self, client: Any) -> int:
        """Remove what is forgotten or too old, and the oldest of what is too much; return how many files."""
        entries = self.entries()
        if not entries:
            return 0
        ages = self._ages({entry.task_id for entry in entries}, client)
        longest = self._tuning["spool_seconds"]
        left = int(self._tuning["spool_bytes"]) or int(shutil.disk_usage(self.folder).total * DISK_SHARE)
        removed = 0
        # The newest are kept first.
        for entry in reversed(entries):
            if ages.get(entry.task_id, math.inf) <= longest:
                left -= entry.size
                if left >= 0:
                    continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
                removed += 1
        return removed

    def _ages(self, ids: set[str], client: Any) -> dict[str, float]:
        """Return how long ago the tasks have ended that are not forgotten, 0 where they have not.

        In seconds of the server's clock: this host's may have been set in between.
        """
        names = sorted(ids)
        ages = {}
        for start in range(0, len(names), _PAGE):
            page = names[start : start + _PAGE]
            now = client.time()[0]
            payloads, results = (client.hmget(key, page) for key in (self._keys.task, self._keys.result))
            for name, payload, result in zip(page, payloads, results):
                if payload is not None:
                    ages[name] = now - ended_ms(result) / 1000 if result else 0.0
        return ages
