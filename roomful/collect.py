"""Bring what the tasks left in the workdirs back, to ``results/HOST/...``; what is here is not sent again."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roomful import host_program, report
from roomful.errors import InputError
from roomful.growth import INCOMING, PARTIAL
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.rsync import MOST_PROCESSES, WRITE_FAILED, Rsync
from roomful.settings import Settings
from roomful.wanted import Declared, Wanted, named

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: What is collected where nothing is said.
ALL = Wanted()
#: A list of files longer than this, in bytes, is no list of files.
LONGEST_LIST = 1 << 30

#: Bytes that a file's name has at most, on every common filesystem.
LONGEST_NAME = 255
#: Bytes that a path has at most on Linux, with the one that ends it.
LONGEST_PATH = 4096
#: Digits that a file's size has at most.
LONGEST_SIZE = 18
#: Names in the results folder that are no host's: see results.py.
OTHER_NAMES = frozenset({"tasks", "joblog.tsv", "attempts.tsv"})

#: Called with the bytes brought so far, all bytes, and a note.
OnBytes = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Collected:
    """What one host had: its outputs in number and bytes, and what of them was new and came over the wire.

    ``shared_with`` is the host whose folder has it all, where they share the disk. ``skipped`` are links that lead
    out of the workdir or to folders, and folders that cannot be read.
    """

    files: int = 0
    bytes: int = 0
    files_new: int = 0
    bytes_received: int = 0
    folder: Path | None = None
    shared_with: str = ""
    skipped: tuple[str, ...] = ()
    skipped_count: int = 0


@dataclass(frozen=True)
class _Listing:
    """What a host says is to be collected."""

    workdir: str
    files: dict[bytes, int]
    seen: tuple[int, ...]
    skipped: tuple[str, ...]
    skipped_count: int
    #: Declared outputs that are not there.
    missing: tuple[Declared, ...] = ()


def collect(
    hosts: Sequence[Host],
    settings: Settings,
    wanted: Wanted = ALL,
    into: Path | None = None,
    on_outcome: Callable[[Outcome[Collected]], None] | None = None,
    on_bytes: OnBytes | None = None,
) -> Outcomes[Collected]:
    """Bring the outputs of all hosts to ``into`` (default: the setting ``results``), each host's to its own folder.

    Nothing is ever removed here. A host that has not what a task declared ends as failed (``missing-output``), with
    all else brought. Raises InputError and MissingProgram before any host is touched.
    """
    from roomful.ssh import fan_out

    requests = {host: wanted.request(host.label) for host in hosts}
    into = into or settings.path(settings.results)
    folders = _folders(hosts, into)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(
            "cannot make the folder to fill", where=str(into), why=why, fix="give another --into"
        ) from error
    indices = {host: index for index, host in enumerate(hosts)}
    common = {"workdir": settings.workdir, "run": secrets.token_hex(8)}

    def work(connection: HostConnection) -> _Listing:
        host = connection.entry
        answer = host_program.run(connection, "outputs", {**common, **requests[host], "index": indices[host]})
        return replace(_listing(answer), missing=_missing(answer, wanted, host))

    with Rsync(settings) as rsync:

        def unlisted(outcome: Outcome[_Listing]) -> None:
            if on_outcome and outcome.status != "ok":
                on_outcome(_not_listed(outcome))

        listings = fan_out(hosts, work, settings, unlisted)
        pulls = _Pulls(rsync, folders, _shared(listings), on_outcome, on_bytes)
        return pulls.run(listings)


def _folders(hosts: Sequence[Host], into: Path) -> dict[Host, Path]:
    found: dict[str, Host] = {}
    for host in hosts:
        other = found.setdefault(host.key, host)
        if other.label != host.label:
            raise InputError(
                f"{other.label} and {host.label} would share {into / host.key}", fix="collect them apart"
            )
    # A host can be called what results.py calls its own.
    return {host: into / (f"host-{host.key}" if host.key in OTHER_NAMES else host.key) for host in hosts}


def _listing(answer: dict[str, Any]) -> _Listing:
    """Read a host's answer; what is in it may be anything.

    Raises HostFailure for a path that would leave the host's folder.
    """
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(answer["files"]), LONGEST_LIST)
    files: dict[bytes, int] = {}
    for line in data.split(b"\0")[:-1]:
        size, _, path = line.partition(b" ")
        parts = path.split(b"/")
        if not size.isdigit() or path.startswith(b"/") or not all(parts) or not {b".", b".."}.isdisjoint(parts):
            raise HostFailure("protocol", f"the host names a file {path!r} outside of its workdir")
        if max(map(len, parts)) > LONGEST_NAME or len(path) >= LONGEST_PATH:
            raise HostFailure("protocol", f"the host names a file {path[:40]!r}... with a name that is too long")
        if len(size) > LONGEST_SIZE:
            raise HostFailure("protocol", f"the host names a file {path[:40]!r}... of no sensible size")
        files[path] = int(size)
    skipped = tuple(str(path) for path in answer["skipped"])
    seen = tuple(int(index) for index in answer["seen"])
    return _Listing(str(answer["workdir"]), files, seen, skipped, int(answer.get("skipped_count", 0)))


def _missing(answer: dict[str, Any], wanted: Wanted, host: Host) -> tuple[Declared, ...]:
    try:
        return wanted.missing(host.label, map(int, answer["missing"]))
    except (IndexError, KeyError, TypeError, ValueError):
        raise HostFailure("protocol", "the host names outputs that it was not asked for") from None


def _shared(listings: Outcomes[_Listing]) -> dict[int, int]:
    """Map each host that shares a disk with one before it to the first of those."""
    first: dict[int, int] = {}

    def root(index: int) -> int:
        while first.get(index, index) != index:
            index = first[index]
        return index

    for index, outcome in enumerate(listings):
        for other in outcome.value.seen if outcome.value else ():
            if 0 <= other < len(listings):
                low, high = sorted((root(index), root(other)))
                first[high] = low
    return {index: root(index) for index in range(len(listings)) if root(index) != index}


class _Pulls:
    """The second half of a collection: one rsync a disk, a bounded number at the same time."""

    def __init__(
        self,
        rsync: Rsync,
        folders: dict[Host, Path],
        shared: dict[int, int],
        on_outcome: Callable[[Outcome[Collected]], None] | None,
        on_bytes: OnBytes | None,
    ) -> None:
        self.rsync = rsync
        self.folders = folders
        self.shared = shared
        self.on_outcome = on_outcome
        self.on_bytes = on_bytes
        #: Bytes that have come, and those that are to come: what is here already is not sent.
        self.received = 0
        self.total = 0
        self.lock = threading.Lock()

    def run(self, listings: Outcomes[_Listing]) -> Outcomes[Collected]:
        """Pull from every host that listed something, and say how it went with each."""
        missing = {
            index: _to_come(listing.value.files, self.folders[listing.host])
            for index, listing in enumerate(listings)
            if listing.value and index not in self.shared
        }
        self.total = sum(missing.values())
        self._came(0)
        outcomes: dict[int, Outcome[Collected]] = {}
        with ThreadPoolExecutor(MOST_PROCESSES, thread_name_prefix="collect") as pool:
            running: dict[Future[Outcome[Collected]], int] = {}
            for index, listing in enumerate(listings):
                if listing.value is None:
                    outcomes[index] = _not_listed(listing)
                elif index not in self.shared:
                    running[pool.submit(self._pull, listing, listing.value, missing[index])] = index
            try:
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        index = running.pop(future)
                        outcomes[index] = future.result()
                        if self.on_outcome:
                            self.on_outcome(outcomes[index])
            except KeyboardInterrupt:
                self.rsync.stop()
                for future, index in running.items():
                    future.cancel()
                    outcomes[index] = _failed(listings[index], HostFailure("interrupted"), listings[index].seconds)
        for index, first in self.shared.items():
            if listings[index].status == "ok":
                outcomes[index] = self._with(listings[index], outcomes[first])
                if self.on_outcome:
                    self.on_outcome(outcomes[index])
        return Outcomes(outcomes[index] for index in range(len(listings)))

    def _with(self, listing: Outcome[_Listing], first: Outcome[Collected]) -> Outcome[Collected]:
        if first.status == "ok":
            value = Collected(folder=self.folders[first.host], shared_with=first.host.label)
            return Outcome(listing.host, "ok", value=value, seconds=first.seconds)
        detail = f"shares its disk with {first.host.label}, which failed: {first.reason}"
        return _failed(listing, HostFailure("error", detail), first.seconds)

    def _pull(self, listing: Outcome[_Listing], wanted: _Listing, to_come: int) -> Outcome[Collected]:
        start = time.monotonic() - listing.seconds
        folder = self.folders[listing.host]
        try:
            value = Collected(folder=folder)
            if wanted.files:
                _refuse_without_room(folder, to_come)
                value = self._pulled(listing.host, wanted, folder)
        except HostFailure as failure:
            if failure.reason == WRITE_FAILED and shutil.disk_usage(folder).free < sum(wanted.files.values()):
                failure = HostFailure("disk-full", f"here: {folder}")
            return _failed(listing, failure, time.monotonic() - start)
        except OSError as error:
            return _failed(
                listing,
                HostFailure("error", f"here: {error.filename or folder}: {error.strerror or error}"),
                time.monotonic() - start,
            )
        value = replace(value, skipped=wanted.skipped, skipped_count=wanted.skipped_count)
        if wanted.missing:
            missing = _failed(listing, HostFailure("missing-output", named(wanted.missing)), time.monotonic() - start)
            return replace(missing, value=value)
        return Outcome(listing.host, "ok", value=value, seconds=time.monotonic() - start)

    def _pulled(self, host: Host, wanted: _Listing, folder: Path) -> Collected:
        with _only_here(folder):
            try:
                moved = self.rsync.pull(host, wanted.workdir, folder, wanted.files, self._came)
            except HostFailure as failure:
                if failure.reason == "protocol":
                    # What is more than was listed must not wait here for another time.
                    for partial in folder.rglob(PARTIAL):
                        shutil.rmtree(partial, ignore_errors=True)
                raise
        size = sum(wanted.files.values())
        return Collected(len(wanted.files), size, moved.files, moved.bytes_received, folder)

    def _came(self, count: int) -> None:
        with self.lock:
            self.received += count
            if self.on_bytes:
                self.on_bytes(min(self.received, self.total), self.total, "")


def _to_come(files: Mapping[bytes, int], folder: Path) -> int:
    """Return how many bytes of listed files are not in a folder here, going by their sizes."""
    start = os.path.join(os.fsencode(folder), b"")
    total = 0
    for path, size in files.items():
        here = -1
        with contextlib.suppress(OSError):
            here = os.lstat(start + path).st_size
        total += size if here != size else 0
    return total


def _refuse_without_room(folder: Path, missing: int) -> None:
    """Raise HostFailure where the disk here has less room than a host's files need."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        what = f"here: {folder} needs {report.size(missing)} more, and {report.size(free)} are free"
        raise HostFailure("disk-full", what)


@contextlib.contextmanager
def _only_here(folder: Path) -> Iterator[None]:
    """Keep other collections out of a host's folder, remove what a killed one left, and make INCOMING."""
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / INCOMING
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostFailure("error", f"another inv collect is writing into {folder}") from None
    except OSError:
        # No such locks on this filesystem (NFS locks no folders): then two at once are the user's to avoid.
        return


def _not_listed(listing: Outcome[_Listing]) -> Outcome[Collected]:
    return Outcome(listing.host, listing.status, listing.reason, listing.detail, seconds=listing.seconds)


def _failed(listing: Outcome[_Listing], failure: HostFailure, seconds: float) -> Outcome[Collected]:
    return Outcome(listing.host, "failed", failure.reason, failure.detail, seconds=seconds)


__all__ = ["Collected", "collect"]
