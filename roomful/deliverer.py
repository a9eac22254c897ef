"""Carries the results of tasks to the paths that ``--results`` named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class _Distant:
    """A result that is a file on a host."""

    batch: Batch
    item: Delivery
    host: str
    remote: str


class Deliverer:
    """Carries the results of tasks that are done to their paths.

    ``unreachable`` has the hosts that were tried in vain, with the reason: each costs one deadline, not one a page.
    """

    def __init__(
        self,
        queue: Queue,
        settings: Settings,
        *,
        before_connecting: BeforeConnecting | None = None,
        unreachable: dict[str, str] | None = None,
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.book = DeliveryBook(settings)
        self.before_connecting = before_connecting
        self.unreachable = {} if unreachable is None else unreachable
        self._workdirs: dict[str, str] | None = None
        #: For each batch that tasks are picked from: its deliveries by task.
        self._of_task: dict[Path, dict[int, list[Delivery]]] = {}

    def deliver_all(self) -> DeliveryReport:
        """Deliver what can be, of every batch."""
        report = DeliveryReport()
        batches = self.book.batches()
        distant = [one for batch in batches for one in self._deliver(batch, batch.pending, report)]
        self._fetch(distant, report)
        for batch in batches:
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
        self._fetch(self._deliver(batch, found, report), report)
        return report

    def _deliver(self, batch: Batch, items: Sequence[Delivery], report: DeliveryReport) -> list[_Distant]:
        """Deliver what the queue has; returns what must be fetched from hosts."""
        distant: list[_Distant] = []
        for page in _pages(items, _PAGE):
            settled: list[int] = []
            for item, record, output in self._ready(page, report, settled):
                try:
                    remote = self._file_of(record, output) if batch.as_files else _distant_path(output)
                    if remote:
                        distant.append(_Distant(batch, item, record.host, remote))
                        continue
                    write_bytes(item.path, output.head)
                    settled.append(item.number)
                    report.delivered += 1
                except (OSError, ValueError) as error:
                    why = f"cannot write it: {error.strerror}" if isinstance(error, OSError) else str(error)
                    report.problems.append(Undelivered(item.task_id, item.path, why))
            self.book.note(batch, settled)
        return distant

    def _ready(
        self, page: Sequence[Delivery], report: DeliveryReport, settled: list[int]
    ) -> Iterator[tuple[Delivery, TaskRecord, Output]]:
        """Yield the deliveries whose task is done; notes in ``settled`` those that can never be made."""
        records = {record.id: record for record in self.queue.tasks(ids=sorted({item.task_id for item in page}))}
        ready: list[tuple[Delivery, TaskRecord]] = []
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
        for (item, record), output in zip(ready, outputs, strict=True):
            yield item, record, output

    def _fetch(self, distant: Sequence[_Distant], report: DeliveryReport) -> None:
        """Fetch results that are files on their hosts."""
        wanted: dict[str, list[Wanted]] = {}
        for key, one in enumerate(distant):
            if one.host in self.unreachable:
                self._failed(one, self.unreachable[one.host], report)
            else:
                wanted.setdefault(one.host, []).append(Wanted(key, one.remote, one.item.path))
        if not wanted:
            return
        arrived: dict[Path, list[int]] = {}
        batches = {one.batch.file: one.batch for one in distant}
        for got in fetch(wanted, self.settings, before_connecting=self.before_connecting):
            one = distant[got.wanted.key]
            if not got.reached:
                self.unreachable[got.host] = got.error
            if got.error:
                self._failed(one, got.error, report)
            else:
                arrived.setdefault(one.batch.file, []).append(one.item.number)
                report.delivered += 1
        for file, numbers in arrived.items():
            self.book.note(batches[file], numbers)

    def _failed(self, one: _Distant, why: str, report: DeliveryReport) -> None:
        report.problems.append(Undelivered(one.item.task_id, one.item.path, f"{one.host}: {one.remote}: {why}"))

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
