"""What one task wrote, byte for byte, from wherever it is kept."""

from __future__ import annotations

from collections.abc import Callable

from roomful import remote_files
from roomful.errors import InputError, RoomfulError
from roomful.queue import Queue
from roomful.records import TaskRecord
from roomful.remote_files import BeforeConnecting
from roomful.results import Stream
from roomful.settings import Settings


def find(queue: Queue, task_id: int) -> TaskRecord:
    """Return a task of which an attempt has ended.

    Raises InputError if there is no such task, RoomfulError if it has not written anything that is kept yet.
    """
    record = queue.task(task_id)
    if record is None:
        raise InputError(f"there is no task {task_id}", fix="list them with: inv tasks")
    if not has_output(record):
        state = f"is running on {record.host}" if record.state == "running" else "has not run yet"
        raise RoomfulError(f"task {task_id} {state}", fix="what a task writes is kept when it ends")
    return record


def has_output(record: TaskRecord) -> bool:
    """Tell whether an attempt of the task has ended, so that there is something to show."""
    return bool(record.ended_ms or record.tries)


def copy(
    queue: Queue,
    record: TaskRecord,
    stream: Stream,
    write: Callable[[bytes], object],
    settings: Settings,
    before_connecting: BeforeConnecting | None = None,
) -> None:
    """Hand what a task's last ended attempt wrote to ``write``.

    Raises RoomfulError if the client that has it cannot be reached, or has it no more.
    """
    output = queue.outputs([record], stream)[0]
    if output.size == len(output.head):
        write(output.head)
    elif output.path:
        remote_files.stream(output.host, output.path, write, settings, before_connecting)
    else:
        what = f"{stream} of task {record.id} is cut off"
        why = record.detail or f"{output.host} could not keep all {output.size:,} bytes of it"
        raise RoomfulError(what, why=why, fix="let the task write into a file")


def ending(record: TaskRecord) -> str:
    """Say in a line how a task ended that did not succeed; empty for one that did."""
    if record.state not in ("failed", "cancelled"):
        return ""
    parts = [record.reason if record.reason != "cancelled" else "", record.detail]
    why = ": ".join(part for part in parts if part)
    where = f" on {record.host}" if record.host else ""
    return f"task {record.id} {record.state}{where}, attempt {record.attempt}{f': {why}' if why else ''}"
