"""What the tasks left behind, saved in the results folder.

``joblog.tsv``
    one line a task that has run, in the order of their ends (see `roomful.joblog`); written anew each time
``attempts.tsv``
    the attempts that did not become a task's result, one a line; only where there were any
``tasks/0-999/42/stdout``, ``tasks/0-999/42/stderr``
    what task 42 wrote, byte for byte; a thousand tasks a folder, because many file systems slow down, and ``ls`` and
    shell patterns give up, at a hundred thousand entries in one. Each file is complete or absent. Its time of
    modification is when the task ended, which tells a later run whether it is still the right one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from roomful import joblog
from roomful.atomic_file import AtomicFile, write_bytes
from roomful.deliverer import Deliverer, DeliveryReport
from roomful.errors import RoomfulError
from roomful.queue import Queue
from roomful.records import Output, TaskRecord
from roomful.remote_files import BeforeConnecting, Wanted, fetch
from roomful.settings import Settings

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")

#: Tasks in one folder.
FOLDER_TASKS = 1000
#: Tasks whose outputs are in memory at the same time: at most 128 KiB each.
_PAGE = 100


@dataclass(frozen=True)
class MissingOutput:
    """A stream that could not be saved, and why."""

    task_id: int
    stream: Stream
    why: str


@dataclass
class Saved:
    """What a run of ``save`` found and did."""

    folder: Path
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    #: Tasks of which something was written now, and those that were there already.
    new: int = 0
    kept: int = 0
    #: Earlier attempts that failed or were lost.
    attempts: int = 0
    missing: list[MissingOutput] = field(default_factory=list)
    deliveries: DeliveryReport = field(default_factory=DeliveryReport)

    @property
    def complete(self) -> bool:
        """Whether everything that there is has been saved."""
        return not self.missing and not self.deliveries.problems

    def document(self) -> dict[str, Any]:
        """Return the summary as JSON shows it."""
        names = ("done", "failed", "cancelled", "new", "kept", "attempts")
        return {
            "folder": str(self.folder),
            "joblog": str(self.folder / "joblog.tsv"),
            **{name: getattr(self, name) for name in names},
            "missing": [{"id": item.task_id, "stream": item.stream, "why": item.why} for item in self.missing],
            "results_delivered": self.deliveries.delivered,
            "results_not_delivered": [
                {"id": item.task_id, "path": str(item.path), "why": item.why} for item in self.deliveries.problems
            ],
        }


def task_folder(into: Path, task_id: int) -> Path:
    """Return the folder of a task's outputs."""
    return into / _task_folder(task_id)


def _task_folder(task_id: int) -> str:
    first = task_id - task_id % FOLDER_TASKS
    return f"tasks/{first}-{first + FOLDER_TASKS - 1}/{task_id}"


def save(
    queue: Queue,
    into: Path,
    settings: Settings,
    *,
    before_connecting: BeforeConnecting | None = None,
    progress: Callable[[int], None] | None = None,
) -> Saved:
    """Save the job log and the outputs of all tasks that have ended, and deliver results to their paths.

    Only what is new is written; an interrupted run is taken up by the next. ``progress`` hears how many tasks have
    been gone through. Raises RoomfulError when the folder cannot be written or another run is writing there.
    """
    try:
        with _locked(into):
            saver = _Saver(queue, into, settings, before_connecting)
            saved = saver.run(progress)
    except OSError as error:
        what = f"cannot write {error.filename or into}"
        raise RoomfulError(what, where=str(into), why=error.strerror or str(error)) from error
    deliverer = Deliverer(queue, settings, before_connecting=before_connecting, unreachable=saver.unreachable)
    saved.deliveries = deliverer.deliver_all()
    return saved


@contextlib.contextmanager
def _locked(into: Path) -> Iterator[None]:
    (into / "tasks").mkdir(parents=True, exist_ok=True)
    fd = os.open(into / "tasks", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RoomfulError("another collect is writing there", where=str(into), fix="wait for its end") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(fd)


class _Saver:
    def __init__(
        self, queue: Queue, into: Path, settings: Settings, before_connecting: BeforeConnecting | None
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.before_connecting = before_connecting
        self.saved = Saved(into)
        self._into = os.fspath(into)
        #: Hosts that were tried in vain, and why.
        self.unreachable: dict[str, str] = {}
        #: Tasks of which something was written.
        self.fresh: set[int] = set()
        #: Files that are on hosts, by host.
        self.distant: dict[str, list[Wanted]] = {}
        #: What the numbers of those files mean.
        self.keys: list[tuple[int, Stream]] = []

    def run(self, progress: Callable[[int], None] | None) -> Saved:
        into = self.saved.folder
        log = into / "joblog.tsv"
        seen: set[int] = set()
        attempts = into / "attempts.tsv"
        with AtomicFile(log) as lines, AtomicFile(attempts) as tries:
            lines.write(joblog.HEADER)
            tries.write(joblog.ATTEMPTS_HEADER)
            lines.write(b"".join(self._forgotten(log)))
            outcomes = self.queue.outcomes()
            while page := list(islice(outcomes, _PAGE)):
                fresh = [record for record in page if record.id not in seen]
                seen.update(record.id for record in fresh)
                sizes = self._save_page([record for record in fresh if joblog.has_run(record)])
                lines.write(b"".join(joblog.line(record, sizes[record.id]) for record in fresh if record.id in sizes))
                for record in fresh:
                    setattr(self.saved, record.state, getattr(self.saved, record.state) + 1)
                    self.saved.attempts += len(record.tries)
                    tries.write(b"".join(joblog.attempt_lines(record)))
                if progress:
                    progress(len(seen))
        if not self.saved.attempts:
            attempts.unlink(missing_ok=True)
        self._fetch_distant()
        self.saved.new = len(self.fresh)
        return self.saved

    def _forgotten(self, log: Path) -> list[bytes]:
        """Return the lines of the old log about tasks that the queue has been told to forget."""
        try:
            old = log.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        highest = self.queue.last_id()
        if self.queue.counts().total == highest:
            return []  # nothing was ever forgotten
        known = {number for text in old if (number := joblog.sequence_number(text)) and number <= highest}
        present = {record.id for record in self.queue.tasks(ids=sorted(known))}
        return joblog.kept_lines(old, known - present)

    def _save_page(self, records: Sequence[TaskRecord]) -> dict[int, int]:
        """Save the outputs of some tasks; returns the size of each one's stdout in bytes."""
        sizes: dict[int, int] = {}
        wanted: dict[Stream, list[TaskRecord]] = {stream: [] for stream in STREAMS}
        for record in records:
            sizes[record.id] = 0
            if not _has_output(record):
                continue
            have = {stream: _size_if_current(self._path(record.id, stream), record) for stream in STREAMS}
            sizes[record.id] = have["stdout"] or 0
            for stream in STREAMS:
                if have[stream] is None:
                    wanted[stream].append(record)
            self.saved.kept += None not in have.values()
        for stream, some in wanted.items():
            for record, output in zip(some, self.queue.outputs(some, stream), strict=True):
                if stream == "stdout":
                    sizes[record.id] = output.size
                self._save(record, stream, output)
        return sizes

    def _save(self, record: TaskRecord, stream: Stream, output: Output) -> None:
        path = self._path(record.id, stream)
        if output.size == len(output.head):
            write_bytes(path, output.head, record.ended_ms)
            self.fresh.add(record.id)
        elif output.path:
            self.distant.setdefault(output.host, []).append(
                Wanted(len(self.keys), output.path, Path(path), record.ended_ms)
            )
            self.keys.append((record.id, stream))
        else:
            why = f"{record.host} could not keep all {output.size:,} bytes of it"
            self.saved.missing.append(MissingOutput(record.id, stream, why))

    def _path(self, task_id: int, stream: Stream) -> str:
        # Text: with a Path for each of a hundred thousand tasks, a second run would take twice as long.
        return f"{self._into}/{_task_folder(task_id)}/{stream}"

    def _fetch_distant(self) -> None:
        if not self.distant:
            return
        for got in fetch(self.distant, self.settings, before_connecting=self.before_connecting):
            task_id, stream = self.keys[got.wanted.key]
            if not got.reached:
                self.unreachable[got.host] = got.error
            if not got.error:
                self.fresh.add(task_id)
            else:
                self.saved.missing.append(MissingOutput(task_id, stream, f"{got.host}: {got.error}"))


def _has_output(record: TaskRecord) -> bool:
    """Tell whether the attempt that became the result ended by itself; of others nothing is known."""
    return record.exit_code is not None or record.signal is not None


def _size_if_current(path: str, record: TaskRecord) -> int | None:
    """Return the size of a saved output; None if it is not there or is an earlier attempt's."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size if status.st_mtime_ns // 1_000_000 == record.ended_ms else None
