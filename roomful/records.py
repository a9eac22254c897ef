"""What the queue tells: tasks, clients and counts as they are at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from roomful.agent.task import TaskSpec

State = Literal["todo", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class SubmitReport:
    """What one submission added; its tasks are on the server's disk."""

    #: Ids in order, as inclusive ranges; several when others submitted at the same time.
    ranges: tuple[tuple[int, int], ...]
    added: int
    #: Duplicates of tasks that are queued, running or done.
    skipped: int
    #: Whether they are on the server's disk; False only on a server that keeps nothing there.
    durable: bool = True

    @property
    def first_id(self) -> int | None:
        """The lowest id that was added."""
        return self.ranges[0][0] if self.ranges else None

    @property
    def last_id(self) -> int | None:
        """The highest id that was added."""
        return self.ranges[-1][1] if self.ranges else None

    @property
    def ids(self) -> list[int]:
        """Every id that was added."""
        return [task_id for first, last in self.ranges for task_id in range(first, last + 1)]


@dataclass(frozen=True)
class Counts:
    """How many tasks are in which state."""

    todo: int
    running: int
    done: int
    failed: int
    cancelled: int
    #: Results that came after their attempt had been given up; kept aside, never accepted.
    late: int
    #: Tasks that ended in the last minute, a second.
    rate: float

    @property
    def total(self) -> int:
        """All tasks that the queue knows."""
        return self.todo + self.running + self.done + self.failed + self.cancelled


@dataclass(frozen=True)
class Output:
    """One stream of a task's last attempt, exactly as it was written."""

    #: The stream's beginning: all of it where ``size <= 64 KiB``, else the first half of that.
    head: bytes
    #: Its last 32 KiB where it was longer, else empty.
    tail: bytes
    #: Bytes in all.
    size: int
    #: The file on ``host`` that has all of it; empty where ``head`` has, or where the disk there was full.
    path: str
    host: str

    @property
    def complete(self) -> bool:
        """Whether ``head`` is all of it."""
        return len(self.head) == self.size


@dataclass(frozen=True)
class Try:
    """One attempt that did not become the task's result."""

    attempt: int
    host: str
    #: ``exit N``, ``signal N``, ``timeout``, ``memory``, ``lost``, ``stopped``, ``evicted``, ``error``.
    reason: str
    detail: str
    #: Server clock, milliseconds since 1970.
    ended_ms: int


@dataclass(frozen=True)
class TaskRecord:
    """A task as the queue sees it. Times are of the server's clock, in milliseconds since 1970; 0: not yet."""

    id: int
    state: State
    spec: TaskSpec
    #: The last attempt's number; 0 before the first.
    attempt: int = 0
    #: Label of the host that runs or ran it.
    host: str = ""
    agent: str = ""
    claimed_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    #: Measured on the client's monotonic clock.
    seconds: float = 0.0
    #: Empty for success, else as in ``Try.reason``, or ``cancelled``.
    reason: str = ""
    #: A sentence, where the reason needs one.
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    #: Largest resident memory of any process of it, and its CPU time.
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    #: Earlier attempts, oldest first; at most the last 20.
    tries: tuple[Try, ...] = ()
    #: Position in the log of outcomes; pass it to ``Queue.outcomes(since=...)`` to go on after this one.
    cursor: str = ""


@dataclass(frozen=True)
class ClientRecord:
    """An agent as the queue sees it."""

    agent: str
    host: str
    #: ``live``; ``silent`` (heartbeats missed); ``draining`` (takes nothing new); ``lost``; ``stopped``.
    state: str
    slots: int
    cpus: float
    memory_bytes: int
    #: One-minute load average, and memory that could be had, as of the last heartbeat.
    load: float
    memory_free_bytes: int
    #: Tasks that it holds, of them ``waiting`` were claimed ahead and have not started.
    running: int
    waiting: int
    #: Tasks that ended on this host, since the queue was made.
    done: int
    failed: int
    seconds_since_heartbeat: float
    #: Why it takes nothing, where it does not: ``low memory``, ``load``, ``in use``, ``cut off`` ...
    busy_with: str = ""
    #: What it said of itself when it registered: python, version, pid, workdir ...
    about: Mapping[str, Any] = field(default_factory=dict)
    #: Threads on a CPU or waiting for one, as of the last heartbeat.
    runnable: int = 0
