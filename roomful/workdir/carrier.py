"""What tasks made inside deployed folders, brought from one release to the next."""

from __future__ import annotations

import errno
import os
import shutil
import stat

from roomful.workdir.files import below, kind_of, lstat, write
from roomful.workdir.lock import Lock
from roomful.workdir.releases import Item, Store


class Carrier:
    """Brings files as hard links, so that a task which still works in the old release shares them with the new.

    ``target`` is where the new release is: in the staging folder before the swap, in its place after it.
    """

    def __init__(self, store: Store, target: bytes, lock: Lock) -> None:
        self.store = store
        self.target = target
        self.lock = lock
        #: How many files were put aside, because SOURCE now has something else in their place.
        self.kept = 0

    def bring_all(self, previous: str, wanted: dict[bytes, Item], delete: bool) -> dict[bytes, Item]:
        """Bring what SOURCE does not have from the release that is still current.

        Returns what of it earlier deployments had put there. With ``delete`` that stays behind, unless someone
        changed it since: then it is a task's.
        """
        release = self.store.release(previous)
        record = self.store.record(previous)
        known = record.items if record else {}
        left: dict[bytes, Item] = {}
        seen: list[bytes] = []
        for path, info in below(release):
            self.lock.renew()
            item = known.get(path)
            if item is None:
                seen.append(path)
            if path in wanted and (item is not None or kind_of(info) == wanted[path].kind == "folder"):
                continue
            ours = item is not None and item.is_unchanged(os.path.join(release, path))
            if ours and delete:
                # A folder that holds something of a task's is made again when that is brought.
                continue
            if self._bring(release, path, info, keep=not ours) and ours and item is not None:
                left[path] = item._replace(wanted=False)
        write(release + b".seen", b"\0".join(seen))
        return left

    def bring_late(self, superseded: str) -> None:
        """Bring what tasks made in a superseded release after it had been listed."""
        release = self.store.release(superseded)
        try:
            with open(release + b".seen", "rb") as file:
                seen = set(file.read().split(b"\0"))
        except FileNotFoundError:
            # It was never current: nobody can have made anything in it.
            return
        record = self.store.record(superseded)
        known = record.items if record else {}
        late = [(path, info) for path, info in below(release) if path not in seen and path not in known]
        for path, info in late:
            self.lock.renew()
            self._bring(release, path, info, keep=True)
        if late:
            write(release + b".seen", b"\0".join([*seen, *(path for path, _ in late)]))

    def _bring(self, release: bytes, path: bytes, info: os.stat_result, keep: bool) -> bool:
        if place(release, self.target, path, info):
            return True
        if keep and not stat.S_ISDIR(info.st_mode):
            place(release, os.path.join(self.store.own, b"kept", os.path.basename(release)), path, info)
            self.kept += 1
        return False


def place(source: bytes, target: bytes, path: bytes, info: os.stat_result) -> bool:
    """Make ``source/path`` appear as ``target/path``; False if something else is in its place."""
    os.makedirs(target, exist_ok=True)
    directory = target
    for name in path.split(b"/")[:-1]:
        directory = os.path.join(directory, name)
        found = lstat(directory)
        if found is None:
            os.mkdir(directory)
        elif not stat.S_ISDIR(found.st_mode):
            return False
    new, old = os.path.join(target, path), os.path.join(source, path)
    found = lstat(new)
    if stat.S_ISDIR(info.st_mode):
        if found is None:
            os.mkdir(new)
            os.chmod(new, info.st_mode & 0o777 | 0o700)
        return found is None or stat.S_ISDIR(found.st_mode)
    if found is not None:
        return os.path.samestat(found, info)
    try:
        os.link(old, new, follow_symlinks=False)
    except FileNotFoundError:
        # A task removed it meanwhile.
        return True
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        # No hard links here (AFS, some FUSE filesystems): a copy it is.
        if kind_of(info) in ("file", "link"):
            shutil.copy2(old, new, follow_symlinks=False)
    return True
