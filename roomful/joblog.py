"""The job log: one line a task that has run, with GNU parallel's columns, separated by tabs.

``Seq Host Starttime JobRuntime Send Receive Exitval Signal Command``: Seq is the task's id; Starttime is of the
server's clock, in seconds since 1970; JobRuntime is in seconds; Send is 0; Receive is the size of stdout; Exitval is
-1 where there is no exit code. A control character in a command is written as an escape, so that a line is a task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from roomful.records import TaskRecord

HEADER = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
ATTEMPTS_HEADER = b"Seq\tAttempt\tHost\tEnded\tReason\tDetail\n"

_ESCAPES: Mapping[str, str] = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_CONTROL = re.compile("[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")


def has_run(record: TaskRecord) -> bool:
    """Tell whether a task belongs into the job log: it has ended, and it had begun."""
    return bool(record.ended_ms and record.claimed_ms)


def line(record: TaskRecord, received: int) -> bytes:
    """Write a task that has run as a line; ``received`` is the size of its stdout in bytes."""
    fields = (
        str(record.id),
        one_line(record.host),
        f"{record.started_ms / 1000:.3f}",
        f"{record.seconds:.3f}",
        "0",
        str(received),
        str(-1 if record.exit_code is None else record.exit_code),
        str(record.signal or 0),
        one_line(record.spec.command),
    )
    return "\t".join(fields).encode("utf-8", "surrogateescape") + b"\n"


def attempt_lines(record: TaskRecord) -> Iterator[bytes]:
    """Write a task's earlier attempts, those that did not become its result, one a line."""
    for tried in record.tries:
        fields = (
            str(record.id),
            str(tried.attempt),
            one_line(tried.host),
            f"{tried.ended_ms / 1000:.3f}",
            one_line(tried.reason),
            one_line(tried.detail),
        )
        yield "\t".join(fields).encode("utf-8", "surrogateescape") + b"\n"


def one_line(text: str) -> str:
    """Escape control characters and other ends of lines; backslashes stay as they are."""
    return _CONTROL.sub(lambda match: _ESCAPES.get(match[0]) or match[0].encode("unicode_escape").decode(), text)


def sequence_number(text: bytes) -> int | None:
    """Read the task's id off a line; None for a header or what is no line of ours."""
    head = text.partition(b"\t")[0]
    return int(head) if head.isdigit() and len(head) <= 15 else None


def kept_lines(old: Iterable[bytes], gone: Iterable[int]) -> list[bytes]:
    """Return the lines of an older log about these tasks."""
    wanted = set(gone)
    return [text for text in old if sequence_number(text) in wanted]
