"""Put a release together from what is on the host already: seeds that a relay brought, and the current release."""

from __future__ import annotations

import os

from roomful.workdir.files import raw
from roomful.workdir.releases import Item, Store
from roomful.workdir.seed import Digests


def adopt(store: Store, staged: bytes, wanted: dict[bytes, Item], seeds: list[bytes]) -> bool:
    """Make everything that is wanted in the staging folder, files as hard links; False where something is missing.

    What it leaves then is the beginning of a push.
    """
    digests = Digests(seeds)
    name = store.current()
    record = store.record(name)
    known = record.items if record else {}

    def source_of(path: bytes, item: Item) -> bytes | None:
        for seed in seeds:
            if digests.of(os.path.join(seed, path)) == item.content:
                return os.path.join(seed, path)
        old = known.get(path)
        if name is None or old is None or (old.content, old.mode) != (item.content, item.mode):
            return None
        there = os.path.join(store.release(name), path)
        return there if old.is_unchanged(there) else None

    try:
        for path, item in wanted.items():
            full = os.path.join(staged, path)
            if item.kind == "folder":
                os.makedirs(full, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(full), exist_ok=True)
            if item.kind == "link":
                os.symlink(raw(item.content), full)
                continue
            source = source_of(path, item)
            if source is None:
                return False
            os.link(source, full, follow_symlinks=False)
    except OSError:
        # No hard links here, or no room: rsync finds out what it is.
        return False
    return True
