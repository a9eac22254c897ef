"""Paths that a user gives for the hosts: relative to the workdir, and never out of it."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from roomful.errors import InputError

#: The folder in the workdir that is Roomful's own.
RESERVED = ".roomful"
#: A file name has at most 255 bytes on every common filesystem; what we make of one stays well below.
_LONGEST_KEY = 120


def inside_workdir(path: str, what: str) -> str:
    """Return a path in its plain form (``a//b/`` is ``a/b``), or refuse it; ``what`` names it in the message.

    Raises InputError for an empty or absolute path, ``..``, ``~``, control characters, and our own folder.
    """
    why = ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if re.search(r"[\0-\x1f\x7f]", path):
        why = "it holds a control character"
    elif path.startswith("/"):
        why = "it is absolute"
    elif ".." in parts:
        why = "it holds '..'"
    elif path.startswith("~"):
        why = "it starts with '~'"
    elif parts[:1] == [RESERVED]:
        why = f"{RESERVED} is Roomful's own"
    elif not parts:
        why = "it is empty"
    elif any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        why = "a name in it is longer than 255 bytes"
    if why:
        raise InputError(f"bad {what} {path!r}", why=why, fix="give a path relative to the workdir, such as data/in")
    return "/".join(parts)


def key_of(path: str) -> str:
    """Turn a path into one file name: readable, and different for different paths."""
    if not path:
        return "top"
    name = quote(path, safe="", errors="surrogateescape")
    if len(name) > _LONGEST_KEY:
        digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
        name = f"{name[: _LONGEST_KEY - 17]}-{digest[:16]}"
    return f"in-{name}"
