"""Make what was pushed the current release: verify it, add what tasks made, swap, tidy up."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Any

from roomful.workdir.adopt import adopt
from roomful.workdir.carrier import Carrier
from roomful.workdir.files import Refusal, below, kind_of, listed, lstat, raw, remove, serve, shown, sync, text, write
from roomful.workdir.lock import Lock
from roomful.workdir.releases import Item, Record, Store
from roomful.workdir.seed import Digests

#: Another controller's cut push is removed after this long, by the file server's clock.
FOREIGN_STAGING_SECONDS = 24 * 3600
#: With more new files than this, one sync of the whole machine is quicker than one a file.
MOST_FILE_SYNCS = 200


def commit(request: dict[str, Any]) -> dict[str, Any]:
    """Make the staged files the current release, and say what had to make way.

    With ``seeds`` nothing was pushed: what is wanted is taken from those. Where it is not all there, nothing is done
    but to say so (``incomplete``).
    """
    store = Store(request["workdir"], request["dest"], request["key"])
    name: str = request["name"]
    names = [raw(entry) for entry in request["entries"]]
    staged = os.path.join(store.staging, raw(request["staging"]))
    wanted = {raw(path): Item(*values) for path, *values in request["items"]}
    seeds = [os.path.join(store.staging, raw(seed)) for seed in request["seeds"]]
    if seeds and not adopt(store, staged, wanted, seeds):
        return {"incomplete": True}
    items = verify(
        store, staged, wanted, Digests([os.path.join(store.staging, raw(seed)) for seed in request["dead"]])
    )
    with Lock(os.path.join(store.directory, b"lock")) as lock:
        store.refuse_what_is_in_the_way([] if request["replace"] else names)
        os.makedirs(store.top, exist_ok=True)
        carrier = Carrier(store, staged, lock)
        previous = store.current()
        entries = dict(request["entries"])
        if previous is not None:
            items.update(carrier.bring_all(previous, wanted, request["delete"]))
            record = store.record(previous)
            for entry in {text(path.split(b"/", 1)[0]) for path in items} - set(entries):
                entries[entry] = record.entries.get(entry, "") if record else ""
        write(store.release(name) + b".json", Record(items, entries, previous).to_json())
        lock.renew(now=True)
        carrier.target = store.release(name)
        os.rename(staged, carrier.target)
        sync(store.releases)
        replaced = store.in_the_way(names)
        for path in replaced:
            move_aside(store, path, name)
        links = listed(carrier.target)
        make_links(store, links)
        swap(store, name)
        # The new release is the one that is seen now. What follows, the next deployment can do as well.
        remove_links(store, links)
        if previous is not None:
            carrier.bring_late(previous)
        remove_releases(store, {name, previous}, carrier)
        remove_cut_pushes(store, [raw(staging) for staging in request["dead"]])
    return {"kept": carrier.kept, "replaced": [shown(path) for path in replaced]}


def verify(store: Store, staged: bytes, wanted: dict[bytes, Item], relayed: Digests) -> dict[bytes, Item]:
    """Compare what was pushed with what was wanted and return it as it is on the disk, where it now is for good.

    Raises Refusal, with the reason ``differs`` where the content is another. A hard link to a file of the current
    release that is as it was when it was verified there is not read again, nor is one to a file of a seed, whose
    digest was made of the bytes that were written.
    """
    for path in [path for path, _ in below(staged) if path not in wanted]:
        remove(os.path.join(staged, path))
    name = store.current()
    record = store.record(name)
    fresh: list[bytes] = []
    items: dict[bytes, Item] = {}
    for path, item in wanted.items():
        full = os.path.join(staged, path)
        info = lstat(full)
        if info is None or kind_of(info) != item.kind:
            raise Refusal("error", f"{shown(path)} did not arrive; if it changed meanwhile, run deploy again")
        if item.kind == "file":
            known = record.items.get(path) if record else None
            old = os.path.join(store.release(name), path) if name else b""
            if not (
                known
                and known.content == item.content
                and known.is_unchanged(old)
                and os.path.samestat(info, os.lstat(old))
            ):
                if info.st_size != item.size or (relayed.of(full) or digest_of(full)) != item.content:
                    raise Refusal("differs", f"{shown(path)} changed while it was sent; run deploy again")
                fresh.append(full)
        elif item.kind == "link" and text(os.readlink(full)) != item.content:
            raise Refusal("differs", f"{shown(path)} changed while it was sent; run deploy again")
        if item.kind != "link" and info.st_mode & 0o777 != item.mode:
            os.chmod(full, item.mode)
        info = os.lstat(full)
        # A filesystem without modes shows others; what matters is that the owner can use the file.
        if item.kind != "link" and item.mode & 0o700 & ~info.st_mode:
            raise Refusal("error", f"{shown(path)} cannot have the mode {item.mode:o} there")
        items[path] = item._replace(mode=info.st_mode & 0o777, mtime_ns=info.st_mtime_ns)
    flush(fresh)
    return items


def digest_of(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def flush(paths: list[bytes]) -> None:
    """Bring new files to the disk before anything points at them."""
    if len(paths) > MOST_FILE_SYNCS:
        os.sync()
        return
    for path in [*paths, *{os.path.dirname(path) for path in paths}]:
        sync(path)


def move_aside(store: Store, path: bytes, name: str) -> None:
    target = os.path.join(store.own, b"replaced", raw(name), os.path.relpath(path, store.workdir))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, target)


def make_links(store: Store, names: list[bytes]) -> None:
    """Link every top-level name of the release that has its place free."""
    for name in names:
        # What stands there otherwise is in nobody's way: SOURCE does not have this name.
        with contextlib.suppress(FileExistsError):
            os.symlink(store.prefix + name, os.path.join(store.top, name))
    sync(store.top)


def remove_links(store: Store, names: list[bytes]) -> None:
    for name in store.links().difference(names):
        os.unlink(os.path.join(store.top, name))


def swap(store: Store, name: str) -> None:
    """Make a release the current one: the one rename that everything else prepares."""
    temporary = os.path.join(store.directory, b"current." + raw(name))
    os.symlink(b"releases/" + raw(name), temporary)
    os.rename(temporary, os.path.join(store.directory, b"current"))
    sync(store.directory)


def remove_releases(store: Store, keep: set[str | None], carrier: Carrier) -> None:
    """Remove all other releases, but none that a process of this machine stands in."""
    used = releases_in_use(store.releases)
    for path in listed(store.releases):
        full = os.path.join(store.releases, path)
        if os.path.isdir(full) and text(path) not in keep and path not in used:
            carrier.bring_late(text(path))
            store.throw_away(full)
    names = set(listed(store.releases))
    for path in names:
        release, suffix = os.path.splitext(path)
        if suffix in (b".json", b".seen", b".new") and release not in names:
            remove(os.path.join(store.releases, path))


def releases_in_use(releases: bytes) -> set[bytes]:
    """Return the releases in which a process has its working directory or an open file."""
    start = os.path.join(os.path.realpath(releases), b"")
    used = set()
    for pid in listed(b"/proc"):
        if not pid.isdigit():
            continue
        process = os.path.join(b"/proc", pid)
        links = [os.path.join(process, b"cwd")]
        with contextlib.suppress(OSError):
            links += [os.path.join(process, b"fd", number) for number in os.listdir(os.path.join(process, b"fd"))]
        for link in links:
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith(start):
                    used.add(target[len(start) :].split(b"/", 1)[0])
    return used


def remove_cut_pushes(store: Store, dead: list[bytes]) -> None:
    now = os.stat(os.path.join(store.directory, b"lock")).st_mtime
    for name in listed(store.staging):
        path = os.path.join(store.staging, name)
        info = lstat(path)
        if name in dead or (info is not None and now - info.st_mtime > FOREIGN_STAGING_SECONDS):
            store.throw_away(path)
    for name in listed(store.trash):
        remove(os.path.join(store.trash, name))
    for name in listed(store.directory):
        if name.startswith((b"lock.", b"current.")):
            remove(os.path.join(store.directory, name))


def main() -> None:
    serve(commit)
