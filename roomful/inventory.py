"""What the project knows of each host, and since when: what doctor, rank and filter found out last.

Kept in ``.roomful/inventory.json``. Importing this costs nothing, so that looking something up is quick.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterable, Mapping
from typing import Any

from roomful.settings import Settings
from roomful.state import ProjectState, private_directory

VERSION = 1
NAME = "inventory"


class Inventory:
    """The inventory of one project. ``SOURCE`` below is the task that found something out: doctor, rank, filter."""

    def __init__(self, settings: Settings) -> None:
        self._state = ProjectState(settings)

    def learn(self, source: str, facts: Mapping[str, Mapping[str, Any]], now: float | None = None) -> None:
        """Replace what ``source`` said of these hosts (by label); what others said of them stays."""
        if not facts:
            return
        at = time.time() if now is None else now
        folder = private_directory(self._state.directory)
        # Two tasks may learn at the same time; neither may undo what the other has written.
        with (folder / f".{NAME}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            hosts = self._read()
            for label, found in facts.items():
                hosts.setdefault(label, {})[source] = {"at": round(at, 3), **found}
            self._state.write(NAME, {"hosts": hosts}, VERSION)

    def of(self, labels: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what is known of each of these hosts, by source; ``at`` is when, in seconds since 1970."""
        hosts = self._read()
        return {label: hosts.get(label, {}) for label in labels}

    def _read(self) -> dict[str, dict[str, dict[str, Any]]]:
        document = self._state.read(NAME, VERSION) or {}
        return dict(document.get("hosts", {}))
