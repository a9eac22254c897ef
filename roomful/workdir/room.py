"""Find out whether there is room for what is to come, before it is sent; and what is full where it failed.

rsync at times loses the message that says so.
"""

from __future__ import annotations

import os
from typing import Any

from roomful.workdir.files import lstat, raw, serve
from roomful.workdir.releases import Store
from roomful.workdir.space import refuse_too_much


def find_room(request: dict[str, Any]) -> dict[str, Any]:
    """Take as many bytes of the disk as the missing files have, and give them back; OSError tells what is full.

    With ``held``, the pushes that were cut and will be taken up, nothing has been sent yet, and nothing is taken.
    """
    store = Store(request["workdir"], request["dest"], request["key"])
    if "held" in request:
        refuse_too_much(store.workdir, _to_come(store, request))
        return {}
    staged = os.path.join(store.staging, raw(request["staging"]))
    missing = 0
    for path, kind, _, size, _ in request["items"]:
        info = lstat(os.path.join(staged, raw(path)))
        if kind == "file" and (info is None or info.st_size != size):
            missing += size
    probe = os.path.join(store.staging, b"." + raw(request["staging"]))
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if missing:
            os.posix_fallocate(handle, 0, missing)
    finally:
        os.close(handle)
        os.unlink(probe)
    return {}


def _to_come(store: Store, request: dict[str, Any]) -> int:
    """Return how many bytes come at least: what is in the current release already, or was pushed, may not come."""
    record = store.record(store.current())
    known = record.items if record else {}
    held = [os.path.join(store.staging, raw(name)) for name in request["held"]]
    total = 0
    for name, kind, _, size, content in request["items"]:
        path = raw(name)
        item = known.get(path)
        if kind != "file" or (item is not None and item.content == content):
            continue
        found = (lstat(os.path.join(folder, path)) for folder in held)
        total += 0 if any(info is not None and info.st_size == size for info in found) else size
    return total


def main() -> None:
    serve(find_room)
