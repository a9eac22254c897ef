"""How the queue is doing at one moment: counts, rate, time left, clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from roomful import report
from roomful.queue import Queue
from roomful.records import ClientRecord, Counts, TaskRecord

#: Clients that are there, or may be back in a moment.
PRESENT = ("live", "draining", "silent")
#: A command is cut at this many characters in tables; JSON has all of it.
COMMAND_WIDTH = 60


@dataclass(frozen=True)
class Status:
    """One look at the queue."""

    counts: Counts
    clients: tuple[ClientRecord, ...]

    @property
    def left(self) -> int:
        """Tasks that have not ended."""
        return self.counts.todo + self.counts.running

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until all is done if it goes on as in the last minute; None if that cannot be said."""
        return self.left / self.counts.rate if self.left and self.counts.rate else None

    def document(self) -> dict[str, Any]:
        """Return what ``inv status --json`` prints."""
        names = ("todo", "running", "done", "failed", "cancelled", "late", "total")
        return {
            **{name: getattr(self.counts, name) for name in names},
            "rate_per_second": round(self.counts.rate, 3),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
            "clients": [client_document(client) for client in self.clients],
        }


def look(queue: Queue) -> Status:
    """Look at the queue once."""
    return Status(queue.counts(), tuple(queue.clients()))


def client_document(client: ClientRecord) -> dict[str, Any]:
    """Return a client as JSON shows it."""
    document = asdict(client)
    document["seconds_since_heartbeat"] = round(client.seconds_since_heartbeat, 1)
    return document


def summary_lines(status: Status) -> list[str]:
    """Say the counts, the rate and the time left in at most two lines."""
    counts = status.counts
    names = ("todo", "running", "done", "failed", "cancelled")
    parts = [f"{getattr(counts, name)} {name}" for name in names if name != "cancelled" or counts.cancelled]
    lines = [f"{counts.total} {'task' if counts.total == 1 else 'tasks'}: {', '.join(parts)}"]
    if status.left and status.clients and not any(client.state in PRESENT for client in status.clients):
        lines.append("no client is there to run them; start them with: inv start-clients --hosts NAME")
    elif status.left:
        pace = f"{rate_text(counts.rate)} in the last minute" if counts.rate else "none ended in the last minute"
        eta = status.eta_seconds
        lines.append(pace if eta is None else f"{pace}, about {report.duration(eta)} left")
    return lines


def rate_text(per_second: float) -> str:
    """Write a rate in the unit that suits it: ``12.3/s``, ``4.0/min``, ``2.5/h``."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


def client_table(status: Status) -> str:
    """Lay out the clients as a table that fits 80 columns where no client has a note."""
    rows = []
    for client in status.clients:
        here = client.state in PRESENT
        cells = [str(client.slots), f"{client.load:.2f}", memory_text(client), str(client.running)]
        rows.append(
            [
                client.host,
                client.state,
                *(cells if here else [""] * len(cells)),
                str(client.done),
                str(client.failed),
                f"{report.duration(client.seconds_since_heartbeat)} ago",
                client.busy_with,
            ]
        )
    headers = ["host", "state", "slots", "load", "memory free", "running", "done", "failed", "heartbeat", "note"]
    width = len(headers) if any(client.busy_with for client in status.clients) else len(headers) - 1
    return report.table([row[:width] for row in rows], headers[:width])


def memory_text(client: ClientRecord) -> str:
    """Write how much memory is free, of how much: ``22.4 of 23.5 GiB``."""
    number, unit = report.size(client.memory_bytes).split()
    free = min(client.memory_free_bytes, client.memory_bytes) * float(number) / max(client.memory_bytes, 1)
    return f"{free:.1f} of {number} {unit}"


TASK_HEADERS = ("id", "state", "host", "attempt", "seconds", "result", "command")


def task_row(record: TaskRecord) -> list[str]:
    """Lay out a task for a table."""
    command = f"[{record.spec.name}] {record.spec.command}" if record.spec.name else record.spec.command
    result = record.reason or (f"exit {record.exit_code}" if record.exit_code is not None else "")
    return [
        str(record.id),
        record.state,
        record.host,
        str(record.attempt or ""),
        f"{record.seconds:.2f}" if record.ended_ms and record.claimed_ms else "",
        result if record.ended_ms else "",
        command if len(command) <= COMMAND_WIDTH else f"{command[: COMMAND_WIDTH - 3]}...",
    ]


def task_document(record: TaskRecord) -> dict[str, Any]:
    """Return a task as JSON shows it: what was asked for, and what became of it."""
    document: dict[str, Any] = {"id": record.id, "state": record.state, **spec_document(record)}
    for name in ("attempt", "host", "agent", "started_ms", "ended_ms", "seconds", "reason", "detail"):
        document[name] = getattr(record, name)
    for name in ("exit_code", "signal", "peak_memory_bytes", "cpu_seconds"):
        document[name] = getattr(record, name)
    document["tries"] = [asdict(tried) for tried in record.tries]
    return document


def spec_document(record: TaskRecord) -> Mapping[str, Any]:
    """Return what a task asks for, without what it leaves at its default."""
    spec = record.spec
    document: dict[str, Any] = {"kind": spec.kind, "command": spec.command, "priority": spec.priority}
    document |= {"cpus": spec.cpus, "memory_bytes": spec.memory_bytes}
    for name in ("timeout", "retries", "env", "cwd", "stdin", "outputs", "name", "tags"):
        value = getattr(spec, name)
        if value not in (None, "", (), {}):
            document[name] = dict(value) if isinstance(value, Mapping) else value
    return document
