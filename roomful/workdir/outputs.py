"""The outputs in a workdir: every file that is not Roomful's own and not as deploy put it there."""

from __future__ import annotations

import base64
import glob
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any

from roomful.workdir.files import home_path, listed, lstat, raw, serve, text
from roomful.workdir.marks import leave_mark
from roomful.workdir.releases import Item, Store

#: How many of the links that were left out are named.
MOST_NAMED = 20


class Outputs:
    """Walks a workdir. Links are followed only to files in it; of deployed folders, only what tasks made counts."""

    def __init__(self, workdir: bytes) -> None:
        self.workdir = os.path.realpath(workdir)
        self.own = os.path.join(self.workdir, b".roomful")
        self.deploy = os.path.join(self.own, b"deploy", b"")
        #: Of each current release, by its real path: what deploy put there.
        self.releases = self._current_releases()
        self.files: dict[bytes, int] = {}
        self.skipped: list[bytes] = []

    def _current_releases(self) -> dict[bytes, dict[bytes, Item]]:
        found = {}
        for key in listed(self.deploy):
            # Where this store's links are does not matter here, so neither does its --dest.
            store = Store(text(self.workdir), "", text(key))
            name = store.current()
            record = store.record(name)
            if name is not None and record is not None:
                found[os.path.join(os.path.realpath(store.release(name)), b"")] = record.items
        return found

    def add(self, path: bytes) -> None:
        """Add a file, or all outputs in a folder; ``path`` is relative to the workdir."""
        folder = os.path.realpath(os.path.join(self.workdir, os.path.dirname(path)))
        waiting = [(path, os.path.join(folder, os.path.basename(path)))]
        while waiting:
            path, real = waiting.pop()
            info = lstat(real)
            if info is not None and stat.S_ISLNK(info.st_mode):
                if self._is_deployed(real):
                    continue
                real = os.path.realpath(real)
                info = self._behind_link(path, real)
            if info is None or real == self.own:
                continue
            if stat.S_ISDIR(info.st_mode):
                waiting += [(os.path.join(path, name), os.path.join(real, name)) for name in self._names(path, real)]
            elif stat.S_ISREG(info.st_mode) and not self._is_deployed(real):
                self.files[path] = info.st_size

    def _behind_link(self, path: bytes, real: bytes) -> os.stat_result | None:
        """Return what a link leads to, if that is a file in the workdir, or something that was deployed."""
        info = lstat(real)
        if real.startswith(self.deploy):
            return info
        inside = real.startswith(os.path.join(self.workdir, b"")) and not real.startswith(self.own)
        if info is None or not inside or not stat.S_ISREG(info.st_mode):
            self.skipped.append(path)
            return None
        return info

    def _names(self, path: bytes, real: bytes) -> list[bytes]:
        try:
            return listed(real)
        except PermissionError:
            self.skipped.append(path)
            return []

    def _is_deployed(self, real: bytes) -> bool:
        """Tell whether a file is as deploy put it there; what tasks made or changed in a release is not."""
        for release, items in self.releases.items():
            if real.startswith(release):
                item = items.get(real[len(release) :])
                return item is not None and item.is_unchanged(real)
        # An old release, seen through a link of someone's own.
        return real.startswith(self.deploy)

    def add_matches(self, pattern: bytes) -> None:
        """Add what a shell pattern matches."""
        for path in sorted(matches(self.workdir, pattern)):
            full = os.path.join(self.workdir, path)
            if os.path.islink(full) and os.path.isdir(full):
                # A link that was named is meant: what is in the folder behind it counts.
                for name in self._names(path, full):
                    self.add(os.path.join(path, name))
            else:
                self.add(path)


def matches(directory: bytes, pattern: bytes) -> Iterator[bytes]:
    """Yield what a shell pattern matches below a directory, relative to it."""
    start = os.path.join(glob.escape(directory), b"")
    for path in glob.iglob(start + pattern, recursive=True):
        yield os.path.normpath(os.path.relpath(path, directory))


def list_outputs(request: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs' paths and sizes; none where another host of the run lists the same disk."""
    workdir = home_path(request["workdir"])
    if not os.path.isdir(workdir):
        return {"files": pack({}), "skipped": [], "seen": [], "workdir": text(workdir)}
    own = os.path.join(workdir, b".roomful")
    seen = leave_mark(own, request["run"], request["index"])
    outputs = Outputs(workdir)
    if not any(index < request["index"] for index in seen):
        patterns = [raw(pattern) for pattern in request["patterns"]]
        for pattern in patterns:
            outputs.add_matches(pattern)
        for name in [] if patterns else listed(outputs.workdir):
            outputs.add(name)
    return {
        "files": pack(outputs.files),
        "skipped": [text(path) for path in outputs.skipped[:MOST_NAMED]],
        "skipped_count": len(outputs.skipped),
        "seen": seen,
        "workdir": text(outputs.workdir),
    }


def pack(files: dict[bytes, int]) -> str:
    """Write names and sizes as one short text; there may be a million."""
    data = b"".join(b"%d %s\0" % (size, path) for path, size in files.items())
    return base64.b64encode(zlib.compress(data, 1)).decode()


def main() -> None:
    serve(list_outputs)
