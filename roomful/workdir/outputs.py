"""The outputs in a workdir: every file that is not Roomful's own and not as deploy put it there."""

from __future__ import annotations

import base64
import contextlib
import glob
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from roomful.workdir.files import home_path, listed, lstat, raw, serve, text
from roomful.workdir.marks import leave_mark, mark_of
from roomful.workdir.releases import Item, Store

#: How many of the links that were left out are named.
MOST_NAMED = 20
#: A file that changed within this time, in seconds, is taken to be still written.
SETTLE_SECONDS = 3.0


def never(info: os.stat_result) -> bool:
    del info
    return False


class Writers:
    """Tells which files are being written: a process of ours has them open for it, or they have just changed.

    ``now`` is the clock of the disk that they are on; who writes them on another machine is only seen by that.
    """

    def __init__(self, now: float) -> None:
        self._since = now - SETTLE_SECONDS
        self._open = set(files_being_written())

    def write(self, info: os.stat_result) -> bool:
        return info.st_mtime > self._since or (info.st_dev, info.st_ino) in self._open


def files_being_written() -> Iterator[tuple[int, int]]:
    """Yield device and inode of every regular file that a process of this account has open for writing."""
    for pid in listed(b"/proc"):
        folder = os.path.join(b"/proc", pid)
        if not pid.isdigit():
            continue
        # Processes end, and others' cannot be looked into.
        with contextlib.suppress(OSError):
            for number in os.listdir(os.path.join(folder, b"fd")):
                with contextlib.suppress(OSError, ValueError):
                    info = os.stat(os.path.join(folder, b"fd", number))
                    with open(os.path.join(folder, b"fdinfo", number), "rb") as file:
                        flags = int(file.read().partition(b"flags:")[2].split(None, 1)[0], 8)
                    if stat.S_ISREG(info.st_mode) and flags & os.O_ACCMODE != os.O_RDONLY:
                        yield info.st_dev, info.st_ino


class Outputs:
    """Walks a workdir. Links are followed only to files in it; of deployed folders, only what tasks made counts."""

    def __init__(
        self, workdir: bytes, deployed_too: bool = False, unsettled: Callable[[os.stat_result], bool] = never
    ):
        self.deployed_too = deployed_too
        #: Tells of a file whether it is still being written.
        self.unsettled = unsettled
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
            info = self._look(path, real)
            if info is not None and stat.S_ISLNK(info.st_mode):
                if self._is_deployed(real):
                    continue
                real = os.path.realpath(real)
                info = self._behind_link(path, real)
            if info is None or real == self.own:
                continue
            if stat.S_ISDIR(info.st_mode):
                waiting += [(os.path.join(path, name), os.path.join(real, name)) for name in self._names(path, real)]
            elif stat.S_ISREG(info.st_mode) and not self._is_deployed(real) and not self.unsettled(info):
                self.files[path] = info.st_size

    def _look(self, path: bytes, real: bytes) -> os.stat_result | None:
        try:
            return lstat(real)
        except PermissionError:
            # Its folder tells names, and nothing more.
            self.skipped.append(path)
            return None

    def _behind_link(self, path: bytes, real: bytes) -> os.stat_result | None:
        """Return what a link leads to, if that is a file in the workdir, or something that was deployed."""
        if real.startswith(self.deploy):
            return lstat(real)
        inside = real.startswith(os.path.join(self.workdir, b"")) and not real.startswith(self.own)
        info = self._look(path, real) if inside else None
        if info is not None and stat.S_ISREG(info.st_mode):
            return info
        if path not in self.skipped[-1:]:
            self.skipped.append(path)
        return None

    def _names(self, path: bytes, real: bytes) -> list[bytes]:
        try:
            return listed(real)
        except PermissionError:
            self.skipped.append(path)
            return []

    def _is_deployed(self, real: bytes) -> bool:
        """Tell whether a file is as deploy put it there; what tasks made or changed in a release is not."""
        if self.deployed_too:
            return False
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
        missing = list(range(len(request["declared"] or ())))
        return {"files": pack({}), "skipped": [], "seen": [], "missing": missing, "workdir": text(workdir)}
    own = os.path.join(workdir, b".roomful")
    seen = leave_mark(own, request["run"], request["index"])
    now = os.stat(mark_of(own, request["run"], request["index"])).st_mtime
    unsettled = Writers(now).write if request["settled"] else never
    declared = request["declared"]
    outputs = Outputs(workdir, declared is not None, unsettled)
    missing = []
    if declared is not None:
        # Whose disk it is does not matter: each task's outputs are brought from the host where it ran.
        seen = []
        for number, path in enumerate(map(raw, declared)):
            if lstat(os.path.join(outputs.workdir, path)) is None:
                missing.append(number)
            outputs.add(path)
    elif not any(index < request["index"] for index in seen):
        patterns = [raw(pattern) for pattern in request["patterns"]]
        for pattern in patterns:
            outputs.add_matches(pattern)
        for name in [] if patterns else listed(outputs.workdir):
            outputs.add(name)
    return {
        "files": pack(outputs.files),
        "skipped": [text(path) for path in outputs.skipped[:MOST_NAMED]],
        "skipped_count": len(outputs.skipped),
        "missing": missing,
        "seen": seen,
        "workdir": text(outputs.workdir),
    }


def pack(files: dict[bytes, int]) -> str:
    """Write names and sizes as one short text; there may be a million."""
    data = b"".join(b"%d %s\0" % (size, path) for path, size in files.items())
    return base64.b64encode(zlib.compress(data, 1)).decode()


def main() -> None:
    serve(list_outputs)
