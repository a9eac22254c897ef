"""How the queue's structures are read and its submissions packed: bytes in, values out, no server needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from roomful.agent.task import TaskSpec, decode_task, encode_task
from roomful.records import ClientRecord, Output, State, TaskRecord, Try

#: Tasks in one call of the submit script, which unpacks them on Lua's stack.
CHUNK_TASKS = 1000
#: ... and their bytes: what the server keeps busy with at a time.
CHUNK_BYTES = 4 * 1024 * 1024
#: An agent that was not heard for this long is shown as silent.
SILENT_SECONDS = 8.0


def chunks(specs: Iterable[TaskSpec | bytes]) -> Iterator[list[bytes]]:
    """Pack tasks (those that are packed already are bytes), in lists that are right for one call."""
    chunk: list[bytes] = []
    size = 0
    for spec in specs:
        payload = spec if isinstance(spec, bytes) else encode_task(spec)
        if chunk and (len(chunk) == CHUNK_TASKS or size + len(payload) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(payload)
        size += len(payload)
    if chunk:
        yield chunk


def pack_command(parts: Sequence[bytes]) -> bytes:
    """Pack one command for the server; several times as fast as the client's own packing."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join inclusive ranges that touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and merged[-1][1] + 1 >= first:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def host_of(agent: str) -> str:
    """Return the label of an agent's host: what is before the incarnation."""
    return agent.rpartition("#")[0] or agent


def parse_task(
    task_id: int, payload: bytes, running: bytes | None, result: bytes | None, tries: bytes | None
) -> TaskRecord:
    """Put together what the queue has of a task."""
    history = _object(tries)
    record: dict[str, Any] = {
        "id": task_id,
        "spec": decode_task(payload),
        "attempt": int(history.get("attempt", 0)),
        "tries": tuple(_parse_try(entry) for entry in history.get("log") or ()),
        "state": "todo",
    }
    if result is not None:
        record.update(parse_result(result))
    elif running is not None:
        attempt, claimed, agent = running.decode("utf-8", "replace").split(",", 2)
        record.update(
            state="running", attempt=int(attempt), claimed_ms=int(claimed), agent=agent, host=host_of(agent)
        )
    return TaskRecord(**record)


def parse_result(result: bytes) -> dict[str, Any]:
    """Read ``STATE,ATTEMPT,CLAIMED_MS,ENDED_MS,DURATION_MS,AGENT LF JSON`` into fields of a TaskRecord."""
    head, _, said = result.partition(b"\n")
    state, attempt, claimed, ended, duration, agent = head.decode("utf-8", "replace").split(",", 5)
    detail = _object(said)
    known: State = state  # type: ignore[assignment]  # written by our own scripts
    return {
        "state": known,
        "attempt": int(attempt),
        "agent": agent,
        "host": host_of(agent),
        "claimed_ms": int(claimed),
        "started_ms": int(ended) - int(duration) if int(claimed) else 0,
        "ended_ms": int(ended),
        "seconds": int(duration) / 1000,
        "reason": str(detail.get("reason", "")),
        "detail": str(detail.get("detail", "")),
        "exit_code": detail.get("exit"),
        "signal": detail.get("signal"),
        "peak_memory_bytes": int(detail.get("memory", 0)),
        "cpu_seconds": float(detail.get("cpu", 0.0)),
    }


def parse_output(stored: bytes | None, host: str) -> Output:
    """Read a stream: ``[SIZE PATH] LF`` and then its bytes, or, where there is a path, its two ends."""
    if stored is None:
        return Output(head=b"", tail=b"", size=0, path="", host=host)
    about, _, kept = stored.partition(b"\n")
    if not about:
        return Output(head=kept, tail=b"", size=len(kept), path="", host=host)
    size, _, path = about.partition(b" ")
    half = len(kept) // 2
    return Output(kept[:half], kept[half:], int(size), path.decode("utf-8", "surrogateescape"), host)


def attempt_of(path: str) -> int:
    """Return the attempt that wrote a file of the spool, ``TASK.ATTEMPT.STREAM``; 0 if that cannot be told."""
    _, _, name = path.rpartition("/")
    words = name.split(".")
    return int(words[1]) if len(words) == 3 and words[1].isascii() and words[1].isdigit() else 0


def parse_client(
    agent: str, about: bytes, beat: bytes | None, silence: float, tally: Mapping[str, int]
) -> ClientRecord:
    """Put together what the queue has of an agent that was last heard ``silence`` seconds ago."""
    said, now = _object(about), _object(beat)
    host = host_of(agent)
    return ClientRecord(
        agent=agent,
        host=host,
        state="silent" if silence > SILENT_SECONDS else "live",
        slots=int(now.get("slots", said.get("slots", 0))),
        cpus=float(said.get("cpus", 0)),
        memory_bytes=int(said.get("memory", 0)),
        load=float(now.get("load", 0)),
        memory_free_bytes=int(now.get("memory_free", 0)),
        running=int(now.get("running", 0)),
        waiting=int(now.get("waiting", 0)),
        done=tally.get(f"{host} done", 0),
        failed=tally.get(f"{host} failed", 0),
        seconds_since_heartbeat=max(0.0, silence),
        busy_with=str(now.get("busy_with", "")),
        about=said,
        runnable=int(now.get("runnable", 0)),
    )


def _parse_try(entry: Sequence[Any]) -> Try:
    attempt, host, reason, detail, ended = entry
    return Try(int(attempt), str(host), str(reason), str(detail), int(ended))


def _object(text: bytes | None) -> dict[str, Any]:
    """Read a JSON object; what is no such thing reads as nothing said."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
