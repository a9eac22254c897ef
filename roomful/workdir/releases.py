"""The releases of deployed files on a host: their layout, and what is current.

::

    WORKDIR/run.py -> .roomful/deploy/KEY/current/run.py     a link for each top-level name
    WORKDIR/.roomful/deploy/KEY/                             KEY stands for --dest
        current -> releases/NAME                             one rename makes a release current
        releases/NAME/                                       its files
        releases/NAME.json                                   what deploy put there (Record)
        releases/NAME.seen                                   what tasks had put there when it was superseded
        staging/HOST.CONTROLLER.RUN/                         a push that is under way, or that was cut
        lock/TOKEN                                           held while a release becomes current
        trash/                                               being removed
    WORKDIR/.roomful/marks/RUN.INDEX                         see marks.py
    WORKDIR/.roomful/kept/, replaced/                        what had to make way for deployed files

Each step can be the last one: until the rename of ``current`` the old release is the one that is seen, and the next
deployment removes what a cut one left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from typing import Any, NamedTuple

from roomful.workdir.files import Refusal, home_path, kind_of, listed, lstat, raw, remove, serve, shown, text
from roomful.workdir.marks import leave_mark
from roomful.workdir.space import free_bytes


class Item(NamedTuple):
    """One deployed path as it was wanted, and its time as it then was on the disk."""

    kind: str
    mode: int
    size: int
    #: A file's SHA-256, or a link's target.
    content: str
    mtime_ns: int = 0
    #: False for what an earlier deployment put there and the last one's SOURCE did not have.
    wanted: bool = True

    def is_unchanged(self, path: bytes) -> bool:
        """Tell, without reading it, whether a path is as deploy left it."""
        info = lstat(path)
        if info is None or kind_of(info) != self.kind:
            return False
        if self.kind == "file":
            return (info.st_size, info.st_mtime_ns, info.st_mode & 0o777) == (self.size, self.mtime_ns, self.mode)
        return self.kind == "folder" or text(os.readlink(path)) == self.content


class Record:
    """What deployments put into one release: an Item a path, a digest a top-level name."""

    def __init__(self, items: dict[bytes, Item], entries: dict[str, str], previous: str | None) -> None:
        self.items = items
        self.entries = entries
        self.previous = previous

    def to_json(self) -> bytes:
        items = {text(path): list(item) for path, item in self.items.items()}
        document = {"version": 1, "items": items, "entries": self.entries, "previous": self.previous}
        return json.dumps(document).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        document = json.loads(data)
        items = {raw(path): Item(*values) for path, values in document["items"].items()}
        return cls(items, document["entries"], document["previous"])


class Store:
    """One ``--dest`` of one workdir: its folder with links, and its releases."""

    def __init__(self, workdir: str, dest: str, key: str) -> None:
        self.workdir = home_path(workdir)
        self.own = os.path.join(self.workdir, b".roomful")
        self.dest = raw(dest)
        self.top = os.path.join(self.workdir, self.dest) if dest else self.workdir
        self.directory = os.path.join(self.own, b"deploy", raw(key))
        self.releases = os.path.join(self.directory, b"releases")
        self.staging = os.path.join(self.directory, b"staging")
        self.trash = os.path.join(self.directory, b"trash")
        depth = self.dest.count(b"/") + 1 if dest else 0
        #: What the targets of our links start with.
        self.prefix = b"../" * depth + b".roomful/deploy/" + raw(key) + b"/current/"

    def make(self) -> None:
        for directory in (self.releases, self.staging, self.trash):
            os.makedirs(directory, exist_ok=True)

    def release(self, name: str) -> bytes:
        return os.path.join(self.releases, raw(name))

    def current(self) -> str | None:
        """Return the name of the release that is seen, if there is one."""
        try:
            name = os.path.basename(os.readlink(os.path.join(self.directory, b"current")))
        except OSError:
            return None
        return text(name) if os.path.isdir(os.path.join(self.releases, name)) else None

    def record(self, name: str | None) -> Record | None:
        """Return what deploy put into a release; None where that is not known."""
        if name is None:
            return None
        try:
            with open(self.release(name) + b".json", "rb") as file:
                return Record.from_json(file.read())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_our_link(self, path: bytes) -> bool:
        try:
            return os.readlink(path).startswith(self.prefix)
        except OSError:
            return False

    def links(self) -> set[bytes]:
        """Return the names of our links; there may be many other files beside them."""
        with os.scandir(self.top) as entries:
            return {entry.name for entry in entries if entry.is_symlink() and self.is_our_link(entry.path)}

    def in_the_way(self, names: list[bytes]) -> list[bytes]:
        """Return the paths at which our links must be and something else is."""
        paths = [os.path.join(self.top, name) for name in names]
        return [path for path in paths if lstat(path) is not None and not self.is_our_link(path)]

    def refuse_what_is_in_the_way(self, names: list[bytes]) -> None:
        """Raise Refusal if something is in the way of these links, or of ``--dest`` itself."""
        path = self.workdir
        for name in self.dest.split(b"/") if self.dest else []:
            path = os.path.join(path, name)
            with contextlib.suppress(OSError):
                if b".roomful/deploy/" in os.readlink(path):
                    raise Refusal("in-the-way", f"{shown(path)} was deployed itself; give another --dest")
            if lstat(path) is not None and not os.path.isdir(path):
                raise Refusal("in-the-way", f"{shown(path)} is no folder")
        paths = self.in_the_way(names)
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            detail = f"{shown(paths[0])}{more} is there, and not from deploy; move it, or give --replace"
            raise Refusal("in-the-way", detail)

    def throw_away(self, path: bytes) -> None:
        """Remove a tree in two steps: one that is half removed must not be taken for a release."""
        target = os.path.join(self.trash, b"%s.%016x" % (os.path.basename(path), random.getrandbits(64)))
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, target)
        remove(target)


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Say what is there: whether SOURCE is current, whose disk this is and what fits on it, which pushes were cut."""
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    seen = leave_mark(store.own, request["run"], request["index"])
    if shutil.which("rsync") is None:
        raise Refusal("no-program", "rsync is not installed there")
    names = [] if request["replace"] else [raw(name) for name in request["entries"]]
    store.refuse_what_is_in_the_way(names)
    name = store.current()
    return {
        "current": is_current(store, name, request["entries"], request["delete"]),
        "seen": seen,
        "release": name,
        "directory": text(store.directory),
        "free": free_bytes(store.staging),
        "stagings": [text(staging) for staging in listed(store.staging)],
    }


def is_current(store: Store, name: str | None, entries: dict[str, str], delete: bool) -> bool:
    """Tell whether a deployment would change nothing: same digests, each file as it was left, each link there."""
    record = store.record(name)
    if name is None or record is None:
        return False
    if any(record.entries.get(entry) != digest for entry, digest in entries.items()):
        return False
    if delete and not all(item.wanted for item in record.items.values()):
        return False
    release = store.release(name)
    links = store.links()
    if not links.issuperset(map(raw, entries)) or not links.issubset(listed(release)):
        return False
    return all(
        item.is_unchanged(os.path.join(release, path))
        for path, item in record.items.items()
        if text(path.split(b"/", 1)[0]) in entries
    )


def main() -> None:
    serve(check)
