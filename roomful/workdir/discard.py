"""Remove pushes that were cut, before they have become anything."""

from __future__ import annotations

import os
from typing import Any

from roomful.workdir.files import listed, raw, remove, serve
from roomful.workdir.releases import Store


def discard(request: dict[str, Any]) -> dict[str, Any]:
    """Remove these staging folders, and what other removals left."""
    store = Store(request["workdir"], request["dest"], request["key"])
    for name in request["stagings"]:
        store.throw_away(os.path.join(store.staging, raw(name)))
    for name in listed(store.trash):
        remove(os.path.join(store.trash, name))
    return {}


def main() -> None:
    serve(discard)
