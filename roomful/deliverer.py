"""Carries the results of tasks to the paths that ``--results`` named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roomful.agent.task import encode_task
from roomful.atomic_file import write_bytes
from roomful.deliveries import Batch, Delivery, DeliveryBook, digest_of
from roomful.queue import Queue
from roomful.records import Output, TaskRecord
from roomful.remote_files import BeforeConnecting, Wanted, fetch
from roomful.settings import Settings

#: Tasks whose outputs are in memory at the same time.
_PAGE = 100
#: A path that a task prints is no longer than what the kernel takes.
_LONGEST_PATH_BYTES = 4095


@dataclass(frozen=True)
class Undelivered:
    """A result that could not be delivered, and why."""

    task_id: int
    path: Path
    why: str


@dataclass
class DeliveryReport:
    """What came of trying to deliver."""

    delivered: int = 0
    #: Results of tasks that have not ended yet, or have failed and may be tried again.
    waiting: int = 0
    failed: int = 0
    problems: list[Undelivered] = field(default_factory=list)


class Deliverer:
    """Carries the results of tasks that are done to their paths."""

    def __init__(
        self, queue: Queue, settings: Settings, *, before_connecting: BeforeConnecting | None = None
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.book = DeliveryBook(settings)
        self.before_connecting = before_connecting
        self._workdirs: dict[str, str] | None = None
        #: For each batch that tasks are picked from: its deliveries by task.
        self._of_task: dict[Path, dict[int, list[Delivery]]] = {}

    def deliver_all(self, progress: Callable[[int], None] | None = None) -> DeliveryReport:
        """Deliver what can be, of every batch."""
        report = DeliveryReport()
        for batch in self.book.batches():
            for page in _pages(batch.pending, _PAGE):
                self._deliver(batch, page, report)
                if progress:
                    progress(report.delivered)
            self.book.finish(batch)
        return report

    def deliver(self, batch: Batch, task_ids: Iterable[int]) -> DeliveryReport:
        """Deliver the results of these tasks."""
        if batch.file not in self._of_task:
            index = self._of_task[batch.file] = {}
            for item in batch.pending:
                index.setdefault(item.task_id, []).append(item)
        report = DeliveryReport()
        found = [item for task_id in task_ids for item in self._of_task[batch.file].get(task_id, ())]
        for page in _pages(found, _PAGE):
            self._deliver(batch, page, report)
        return report

    def _deliver(self, batch: Batch, page: Sequence[Delivery], report: DeliveryReport) -> None:
        records = {record.id: record for record in self.queue.tasks(ids=sorted({item.task_id for item in page}))}
        ready: list[tuple[Delivery, TaskRecord]] = []
        settled: list[int] = []
        for item in page:
            record = records.get(item.task_id)
            if record is None or digest_of(encode_task(record.spec)) != item.digest:
                report.problems.append(Undelivered(item.task_id, item.path, "the queue has no such task any more"))
                settled.append(item.number)
            elif record.state == "done":
                ready.append((item, record))
            elif record.state in ("failed", "cancelled"):
                report.failed += 1
            else:
                report.waiting += 1
        outputs = self.queue.outputs([record for _, record in ready], "stdout")
        distant: dict[str, list[tuple[Delivery, str]]] = {}
        for (item, record), output in zip(ready, outputs, strict=True):
            try:
                remote = self._file_of(record, output) if batch.as_files else _distant_path(output)
                if remote:
                    distant.setdefault(record.host, []).append((item, remote))
                    continue
                write_bytes(item.path, output.head)
                settled.append(item.number)
                report.delivered += 1
            except (OSError, ValueError) as error:
                why = f"cannot write it: {error.strerror}" if isinstance(error, OSError) else str(error)
                report.problems.append(Undelivered(item.task_id, item.path, why))
        settled += self._fetch(distant, report)
        self.book.note(batch, settled)

    def _fetch(self, distant: dict[str, list[tuple[Delivery, str]]], report: DeliveryReport) -> list[int]:
        """Fetch results that are files on their hosts; returns the numbers of those that arrived."""
        if not distant:
            return []
        items = {item.number: item for pairs in distant.values() for item, _ in pairs}
        wanted = {
            host: [Wanted(item.number, remote, item.path) for item, remote in pairs]
            for host, pairs in distant.items()
        }
        arrived = []
        for got in fetch(wanted, self.settings, before_connecting=self.before_connecting):
            item = items[got.wanted.key]
            if got.error:
                why = f"{got.host}: {got.wanted.remote}: {got.error}"
                report.problems.append(Undelivered(item.task_id, item.path, why))
            else:
                arrived.append(item.number)
                report.delivered += 1
        return arrived

    def _file_of(self, record: TaskRecord, output: Output) -> str:
        """Return the path on the client of the file that a task named; raises ValueError."""
        if self._workdirs is None:
            self._workdirs = {client.host: str(client.about.get("workdir", "")) for client in self.queue.clients()}
        workdir = self._workdirs.get(record.host) or self.settings.workdir
        return os.path.join(workdir, record.spec.cwd, printed_path(output))


def printed_path(output: Output) -> str:
    """Return the path on the last line that a task printed; raises ValueError."""
    lines = (output.tail or output.head).splitlines()
    last = next((line for line in reversed(lines) if line.strip()), b"").strip()
    if not last:
        raise ValueError("the task printed no path (--results-are-files)")
    if b"\0" in last or len(last) > _LONGEST_PATH_BYTES:
        raise ValueError(f"the last line that the task printed is no path: {os.fsdecode(last[:60])!r}")
    return os.fsdecode(last)


def _distant_path(output: Output) -> str:
    """Return the path on the client where all of an output is; empty if the queue has it. Raises ValueError."""
    if output.size == len(output.head):
        return ""
    if not output.path:
        raise ValueError(f"the client could not keep all {output.size:,} bytes of the output")
    return output.path


def _pages(items: Sequence[Delivery], size: int) -> Iterator[Sequence[Delivery]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
