"""Remove what deploy put into a workdir, and nothing that a task wrote; or the whole workdir."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any
from urllib.parse import unquote_to_bytes

from roomful.workdir.carrier import Carrier, place
from roomful.workdir.commit import releases_in_use
from roomful.workdir.files import Refusal, below, home_path, listed, lstat, remove, serve, shown, text
from roomful.workdir.lock import Lock
from roomful.workdir.marks import leave_mark
from roomful.workdir.releases import Store

#: Length of a key's name part from which on it may be cut and hashed (``paths.key_of``).
HASHED_KEY = 120


class Cleaner:
    """What is removed from one workdir, and the account of it."""

    def __init__(self, workdir: str) -> None:
        self.workdir_word = workdir
        self.workdir = home_path(workdir)
        self.own = os.path.join(self.workdir, b".roomful")
        self.links: list[str] = []
        self.files = 0
        self.bytes = 0
        self.rescued = 0
        self.left: list[str] = []

    def deployed(self) -> None:
        """Remove all that was deployed; what tasks wrote into deployed folders comes to the same place without us."""
        stores = [self.store(name) for name in listed(os.path.join(self.own, b"deploy"))]
        for store in stores:
            if releases_in_use(store.releases):
                raise Refusal("in-use", f"a process works in {shown(store.top)}; end it, or wait for it")
        for store in stores:
            with Lock(os.path.join(store.directory, b"lock")) as lock:
                self.store_content(store, lock)
            remove(store.directory)
            folder = store.top
            with contextlib.suppress(OSError):
                while folder != self.workdir:
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)
        remove(os.path.join(self.own, b"marks"))
        for name in (b"deploy", b"kept", b"replaced", b""):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.own, name))
        self.left = [f".roomful/{text(name)}" for name in listed(self.own)]
        if not os.path.islink(self.workdir):
            with contextlib.suppress(OSError):
                os.rmdir(self.workdir)

    def store(self, key: bytes) -> Store:
        """Find out which ``--dest`` a key stands for."""
        quoted = key[len(b"in-") :] if key.startswith(b"in-") else b""
        if len(quoted) < HASHED_KEY:
            return Store(self.workdir_word, text(unquote_to_bytes(quoted)), text(key))
        wanted = b".roomful/deploy/" + key + b"/current/"
        for path, info in below(self.workdir):
            if stat.S_ISLNK(info.st_mode) and wanted in os.readlink(os.path.join(self.workdir, path)):
                return Store(self.workdir_word, text(os.path.dirname(path)), text(key))
        return Store(self.workdir_word, "", text(key))

    def store_content(self, store: Store, lock: Lock) -> None:
        current = store.current()
        links = sorted(store.links()) if os.path.isdir(store.top) else []
        for name in links:
            os.unlink(os.path.join(store.top, name))
            self.links.append(text(os.path.relpath(os.path.join(store.top, name), self.workdir)))
        if current is None:
            return
        release = store.release(current)
        carrier = Carrier(store, release, lock)
        for name in listed(store.releases):
            if text(name) != current and os.path.isdir(os.path.join(store.releases, name)):
                carrier.bring_late(text(name))
        record = store.record(current)
        known = record.items if record else {}
        for path, info in below(release):
            lock.renew()
            item = known.get(path)
            if item is not None and (item.kind == "folder" or item.is_unchanged(os.path.join(release, path))):
                self.files += item.kind != "folder"
                self.bytes += info.st_size if item.kind == "file" else 0
                continue
            if not place(release, store.top, path, info) and not stat.S_ISDIR(info.st_mode):
                place(release, os.path.join(self.own, b"kept", os.path.basename(release)), path, info)
            self.rescued += not stat.S_ISDIR(info.st_mode)

    def everything(self) -> None:
        """Remove the workdir; where it is a link, what the link leads to is emptied."""
        real = os.path.realpath(self.workdir)
        home = os.path.realpath(os.path.expanduser(b"~"))
        if os.path.commonpath([real, home]) == real:
            raise Refusal("error", f"{shown(self.workdir)} holds the home itself, and is not removed")
        if releases_in_use(real):
            raise Refusal("in-use", f"a process works in {shown(self.workdir)}; end it, or wait for it")
        self.links = [text(name) for name in listed(real)]
        for name in listed(real):
            remove(os.path.join(real, name), self._count)
        if not os.path.islink(self.workdir):
            remove(real)
        self.left = [text(name) for name in listed(real)]
        if self.left:
            raise Refusal("error", f"cannot be removed: {shown(os.path.join(real, listed(real)[0]))}")

    def _count(self, info: os.stat_result) -> None:
        self.files += 1
        self.bytes += info.st_size if stat.S_ISREG(info.st_mode) else 0


def clean(request: dict[str, Any]) -> dict[str, Any]:
    """Remove what there is, or with ``look`` only say whether there is anything, and whose disk this is."""
    cleaner = Cleaner(request["workdir"])
    everything = request["everything"]
    there = lstat(cleaner.own) is not None or (everything and lstat(cleaner.workdir) is not None)
    if request["look"]:
        seen = leave_mark(cleaner.own, request["run"], request["index"]) if there else []
        return {"there": there, "seen": seen}
    if there and everything:
        cleaner.everything()
    elif there:
        cleaner.deployed()
    return {
        "removed": cleaner.links,
        "files": cleaner.files,
        "bytes": cleaner.bytes,
        "rescued": cleaner.rescued,
        "left": cleaner.left,
    }


def main() -> None:
    serve(clean)
