"""What happened in a run: recorded while it lasts, checked against the queue's promises when it is over.

The tasks of such a run write lines of their own on their host, whatever becomes of their agent; the queue's word is
held against these marks.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from roomful.agent.task import MIB
from roomful.queue import Queue, TaskSpec
from roomful.records import TaskRecord

#: Between two signs of life of a running task. /proc/uptime, a monotonic clock, counts in hundredths of a second.
BEAT_SECONDS = 0.05

_SCRIPT = """\
mark() {
    read -r now rest </proc/uptime
    echo "$1 $ROOMFUL_TASK_ID $ROOMFUL_ATTEMPT $cpu $memory $now" >>"$marks$ROOMFUL_HOST"
}
mark start
while [ "$beats" -gt 0 ]; do sleep %g; mark alive; beats=$((beats - 1)); done
mark end
echo "$ROOMFUL_TASK_ID $ROOMFUL_ATTEMPT $ROOMFUL_HOST"
"""

What = Literal["start", "alive", "end"]


class Size(NamedTuple):
    """What a host has to give, or what a task asks for."""

    cpu_milli: int
    memory_mib: int


@dataclass(frozen=True)
class Mark:
    """A line that a task wrote about itself."""

    host: str
    what: What
    task: int
    attempt: int
    needs: Size
    at: float


@dataclass(frozen=True)
class Stay:
    """One attempt on one host, from its first mark to its last: it ran for at least this long."""

    host: str
    task: int
    attempt: int
    needs: Size
    start: float
    last: float
    #: Whether it came to its own end.
    whole: bool


@dataclass(frozen=True)
class History:
    """A run that is over."""

    #: Ids that the queue has acknowledged.
    acknowledged: Collection[int]
    marks: Collection[Mark]
    #: Tasks as the queue has them at the end, with the output of the accepted attempt.
    records: Mapping[int, tuple[TaskRecord, bytes]]
    #: The queue's log of final states: id and attempt, in order.
    accepted: Collection[tuple[int, int]]
    #: What each host has.
    sizes: Mapping[str, Size]
    #: Processes that are there after everything was stopped: their command lines.
    left: Collection[str] = field(default=())


class Recorder:
    """Makes tasks that leave marks, and gathers what there is to know at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "marked.sh"
        self._script.write_text(_SCRIPT % BEAT_SECONDS)
        self.acknowledged: set[int] = set()

    def task(self, name: str, beats: int, cpus: float, memory_mib: int = 0) -> TaskSpec:
        """Make a task that lives for a number of beats, and only says that it needs memory."""
        marks = shlex.quote(str(self._folder / "marks-"))
        values = f"marks={marks} cpu={round(cpus * 1000)} memory={memory_mib} beats={beats}"
        return TaskSpec(
            command=f"{values}; . {self._script} # {name}", cpus=cpus, memory_bytes=memory_mib * MIB, retries=1000
        )

    def marks(self) -> Iterator[Mark]:
        """Read what the tasks have written."""
        for path in sorted(self._folder.glob("marks-*")):
            for line in path.read_text().splitlines():
                what, task, attempt, cpu, memory, at = line.split()
                host, needs = path.name.partition("-")[2], Size(int(cpu), int(memory))
                yield Mark(host, what, int(task), int(attempt), needs, float(at))  # type: ignore[arg-type]  # What

    def history(self, queue: Queue, sizes: Mapping[str, Size], left: Collection[str] = ()) -> History:
        """Gather everything; nothing may run any more."""
        records = list(queue.tasks())
        outputs: list[bytes] = []
        for start in range(0, len(records), 200):
            outputs += [output.head for output in queue.outputs(records[start : start + 200])]
        pairs = zip(records, outputs, strict=True)
        entries = queue._redis.xrange(queue.keys.log)  # what the queue said, not what its library makes of it
        accepted = [(int(said[b"i"]), int(said[b"a"])) for _, said in entries]  # type: ignore[union-attr]  # not async
        by_id = {record.id: (record, output) for record, output in pairs}
        return History(frozenset(self.acknowledged), tuple(self.marks()), by_id, accepted, sizes, left)


def problems(history: History) -> list[str]:
    """Say in which ways a run broke the promises; every task of it must have been able to succeed."""
    stays, found = _stays(history.marks)
    by_task: dict[int, list[Stay]] = defaultdict(list)
    for stay in stays:
        by_task[stay.task].append(stay)
    ends = Counter(task for task, _ in history.accepted)
    attempts = dict(history.accepted)
    for task in sorted(set(history.acknowledged) - set(history.records)):
        found.append(f"task {task} was acknowledged and is lost")
    for task, (record, output) in sorted(history.records.items()):
        if record.state != "done":
            found.append(f"task {task} did not get done: {record.state} {record.reason}, attempt {record.attempt}")
            continue
        if ends[task] != 1:
            found.append(f"task {task} has {ends[task]} accepted results")
        if attempts.get(task, record.attempt) != record.attempt:
            found.append(f"task {task}: attempt {attempts[task]} was logged, {record.attempt} is in the result")
        found += _wrong_attempts(record, output, by_task[task])
    found += _over_committed(stays, history.sizes)
    found += [f"still there: {line}" for line in history.left]
    return found


def _stays(marks: Iterable[Mark]) -> tuple[list[Stay], list[str]]:
    by_attempt: dict[tuple[int, int], list[Mark]] = defaultdict(list)
    for mark in marks:
        by_attempt[mark.task, mark.attempt].append(mark)
    stays, found = [], []
    for (task, attempt), said in by_attempt.items():
        starts = [mark for mark in said if mark.what == "start"]
        if len(starts) != 1:
            places = ", ".join(sorted(mark.host for mark in starts)) or "nowhere"
            found.append(f"task {task}: attempt {attempt} was started {len(starts)} times: {places}")
            continue
        first, last = starts[0], max(mark.at for mark in said)
        whole = any(mark.what == "end" for mark in said)
        stays.append(Stay(first.host, task, attempt, first.needs, first.at, last, whole))
    return stays, found


def _wrong_attempts(record: TaskRecord, output: bytes, stays: Collection[Stay]) -> Iterator[str]:
    """Hold a result against the attempts that there were."""
    who = f"task {record.id}"
    by_attempt = {stay.attempt: stay for stay in stays}
    accepted = by_attempt.get(record.attempt)
    if accepted is None:
        yield f"{who}: attempt {record.attempt} was accepted and never ran"
    elif not accepted.whole or accepted.host != record.host:
        yield f"{who}: attempt {record.attempt} was accepted from {record.host} and did not end there"
    if max(by_attempt, default=0) > record.attempt:
        yield f"{who}: attempt {max(by_attempt)} was started, and the result is of attempt {record.attempt}"
    numbers = [*(entry.attempt for entry in record.tries), record.attempt]
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        yield f"{who}: attempts do not rise: {numbers}"
    if output != f"{record.id} {record.attempt} {record.host}\n".encode():
        yield f"{who}: the output is not of the accepted attempt {record.attempt} on {record.host}: {output!r}"


def _over_committed(stays: Iterable[Stay], sizes: Mapping[str, Size]) -> Iterator[str]:
    """Add up what ran at the same time on each host."""
    by_host: dict[str, list[Stay]] = defaultdict(list)
    for stay in stays:
        by_host[stay.host].append(stay)
    for host, there in sorted(by_host.items()):
        cpu = _most_at_once((stay.start, stay.last, stay.needs.cpu_milli) for stay in there)
        memory = _most_at_once((stay.start, stay.last, stay.needs.memory_mib) for stay in there)
        size = sizes[host]
        if cpu > size.cpu_milli:
            yield f"{host} has {size.cpu_milli / 1000:g} CPUs; what ran on it at one time asked for {cpu / 1000:g}"
        if memory > size.memory_mib:
            yield f"{host} has {size.memory_mib} MiB; what ran on it at one time asked for {memory}"


def _most_at_once(spans: Iterable[tuple[float, float, int]]) -> int:
    """Return the largest sum of the amounts of spans (start, end, amount) that overlap."""
    steps = [step for start, end, amount in spans for step in ((start, amount), (end, -amount))]
    used = most = 0
    # Of one hundredth of a second, ends count first: the clock cannot tell them apart.
    for _, step in sorted(steps):
        used += step
        most = max(most, used)
    return most
