"""Submitting a task file: all of it is checked first, then added, then tied to the paths of its results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from roomful.agent.task import MIB, encode_task
from roomful.deliveries import Batch, DeliveryBook, digest_of, read_result_paths
from roomful.errors import InputError, RoomfulError, ServerError, TaskFileError
from roomful.monitor import PRESENT
from roomful.queue import Queue
from roomful.records import ClientRecord, SubmitReport
from roomful.report import size
from roomful.settings import Settings
from roomful.task_lines import TaskDefaults
from roomful.task_selection import TaskIds
from roomful.taskfile import Need, TaskFile, open_task_file
from roomful.units import parse_cpus, parse_duration, parse_size, parse_whole


@dataclass(frozen=True)
class SubmitOptions:
    """How a task file is to be read and its results returned."""

    #: ``lines``, ``distcomp`` or ``jsonl``; empty: the file's first task line decides.
    format: str = ""
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    allow_duplicates: bool = False
    #: Accept tasks that need more than any client has now.
    allow_waiting: bool = False
    #: File with a result path a line.
    results: Path | None = None
    #: A task's result is the file whose path it prints, not what it prints.
    results_are_files: bool = False


class SubmitCut(RoomfulError):
    """Say that a submission ended in the middle: ``taken`` tasks of ``count`` have been acknowledged."""

    def __init__(self, taken: int, count: int, *, again: bool, where: str, why: str) -> None:
        """``again`` says that what is queued would be skipped."""
        fix = "submit it again: what is queued is skipped" if again else "see which with: inv tasks"
        super().__init__(f"the queue has taken at least {taken} of {count} tasks", where=where, why=why, fix=fix)


@dataclass(frozen=True)
class Submission:
    """A task file that is in the queue."""

    name: str
    count: int
    report: SubmitReport
    warnings: tuple[str, ...]
    #: The id of each line's task, in the file's order, those of duplicates too; None where nobody asked for them.
    line_ids: tuple[int, ...] | None
    batch: Batch | None
    #: Position in the log of outcomes from before the first task was added.
    since: str

    @property
    def added(self) -> TaskIds:
        """The ids that are new."""
        return TaskIds(self.report.ranges)

    @property
    def sentence(self) -> str:
        """What was added, for people."""
        duplicates = "duplicate" if self.report.skipped == 1 else "duplicates"
        counts = f"{self.report.added} added, {self.report.skipped} {duplicates} skipped"
        if not self.report.added:
            return f"no new tasks ({counts})"
        return f"submitted {'task' if self.report.added == 1 else 'tasks'} {self.added} ({counts})"

    def document(self) -> dict[str, Any]:
        """Return what ``inv submit --json`` prints."""
        return {
            "file": self.name,
            "tasks": self.count,
            "added": self.report.added,
            "duplicates": self.report.skipped,
            "ids": str(self.added),
            "durable": self.report.durable,
            "warnings": list(self.warnings),
        }


def submit(
    queue: Queue,
    file: str | Path | BinaryIO,
    settings: Settings,
    options: SubmitOptions | None = None,
    *,
    with_ids: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Submission:
    """Check a task file to its last line and add its tasks; on return the server has them on disk.

    ``with_ids`` asks for ``line_ids``. ``progress`` hears how many tasks of how many have been taken.
    Raises InputError (of which TaskFileError is one), with nothing added, when anything about it is wrong, and
    SubmitCut where it ended when some tasks had been taken.
    """
    options = options or SubmitOptions()
    if options.results_are_files and not options.results:
        raise InputError("--results-are-files needs --results FILE", fix="name the file with one result path a line")
    with open_task_file(file, options.defaults, format=options.format) as tasks:
        paths = read_result_paths(options.results, tasks.count) if options.results else []
        warnings = check_needs(tasks.needs, queue.clients(), tasks.name, allow_waiting=options.allow_waiting)
        since = queue.log_end()
        with _told_how_far(tasks, options, progress) as taken:
            report = queue.submit(tasks.payloads(), allow_duplicates=options.allow_duplicates, progress=taken)
        if not report.durable:
            warnings.append("the server keeps nothing on disk: these tasks are lost when it ends")
        ids = _line_ids(queue, tasks, report) if paths or with_ids else None
        batch = None
        if paths and ids:
            digests = map(digest_of, tasks.payloads())
            entries = zip(ids, digests, paths, strict=True)
            batch = DeliveryBook(settings).add(entries, as_files=options.results_are_files)
        return Submission(
            tasks.name, tasks.count, report, tuple(warnings), tuple(ids) if ids is not None else None, batch, since
        )


@contextlib.contextmanager
def _told_how_far(
    tasks: TaskFile, options: SubmitOptions, progress: Callable[[int, int], None] | None
) -> Iterator[Callable[[int], None]]:
    """Have what ends a submission in its middle say how far it came; yield what hears how many tasks are taken."""
    taken = 0

    def note(count: int) -> None:
        nonlocal taken
        taken = count
        if progress:
            progress(taken, tasks.count)

    try:
        yield note
    except (KeyboardInterrupt, ServerError) as error:
        if not taken:
            raise
        why = str(error) or "interrupted"
        cut = SubmitCut(taken, tasks.count, again=not options.allow_duplicates, where=tasks.name, why=why)
        cut.exit_code = 130 if isinstance(error, KeyboardInterrupt) else error.exit_code
        raise cut from error


def check_needs(
    needs: Iterable[Need], clients: Sequence[ClientRecord], name: str, *, allow_waiting: bool = False
) -> list[str]:
    """Refuse tasks that fit on no client; return what the user should know.

    Raises TaskFileError naming the line, what it needs, and the client that comes nearest.
    """
    present = [client for client in clients if client.state in PRESENT]
    if not present:
        return ["no client is there yet: the tasks wait for inv start-clients"]
    warnings = []
    for need in sorted(needs, key=lambda need: need.line):
        if any(_fits(need, client) for client in present):
            continue
        enough_cpus = [client for client in present if client.cpus * 1000 >= need.cpu_milli]
        # Where the CPUs would do, memory is the matter.
        nearest = max(
            enough_cpus or present,
            key=(lambda one: (one.memory_bytes, one.cpus))
            if enough_cpus
            else (lambda one: (one.cpus, one.memory_bytes)),
        )
        what = f"needs {_amount(need.cpu_milli / 1000, need.memory_mib * MIB)}"
        why = f"the largest host, {nearest.host}, has {_amount(nearest.cpus, nearest.memory_bytes, always=True)}"
        if not allow_waiting:
            fix = "ask for less, or give --allow-waiting to let it wait for a larger host"
            raise TaskFileError(what, where=f"{name}:{need.line}", why=why, fix=fix)
        warnings.append(f"{name}:{need.line}: {what}: {why}; it waits for a larger one")
    return warnings


def _fits(need: Need, client: ClientRecord) -> bool:
    return client.cpus * 1000 >= need.cpu_milli and client.memory_bytes // MIB >= need.memory_mib


def _amount(cpus: float, memory: int, *, always: bool = False) -> str:
    text = f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}"
    return f"{text} and {size(memory)}" if memory or always else text


def task_defaults(
    *, priority: str = "", memory: str = "", cpus: str = "", timeout: str = "", retries: str = ""
) -> TaskDefaults:
    """Read what the flags of ``submit`` say for tasks that do not say it themselves.

    Raises InputError naming the flag.
    """
    readers: dict[str, tuple[str, str, Callable[[str], Any]]] = {
        "priority": ("priority", priority, lambda text: parse_whole(text, negative=True)),
        "memory": ("memory_bytes", memory, parse_size),
        "cpus": ("cpus", cpus, parse_cpus),
        "timeout": ("timeout", timeout, parse_duration),
        "retries": ("retries", retries, parse_whole),
    }
    values: dict[str, Any] = {}
    for flag, (name, text, read) in readers.items():
        if text:
            try:
                values[name] = read(text)
                TaskDefaults(**{name: values[name]}).spec("true").check()
            except ValueError as error:
                raise InputError(str(error), where=f"--{flag}") from None
    return TaskDefaults(**values)


def _line_ids(queue: Queue, tasks: TaskFile, report: SubmitReport) -> list[int]:
    """Find the id of each line's task, the earlier one's where the line is a duplicate."""
    if not report.skipped:
        # Ids rise in the order in which tasks are added.
        return report.ids
    digests = [digest_of(payload) for payload in tasks.payloads()]
    wanted = set(digests)
    added = set(report.ids)
    found: dict[str, int] = {}
    for record in queue.tasks():
        digest = digest_of(encode_task(record.spec))
        # A failed task does not stand in the way of a new one like it; a later one is the one that counts.
        if digest in wanted and (record.state not in ("failed", "cancelled") or record.id in added):
            found[digest] = record.id
    missing = [number for number, digest in enumerate(digests) if digest not in found]
    if missing:
        what = f"{len(missing)} of the tasks have ended or been removed meanwhile"
        raise TaskFileError(what, where=tasks.name, fix="submit the file again")
    return [found[digest] for digest in digests]
