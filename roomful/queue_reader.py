"""What the queue knows of its tasks and clients: looked up, gone through, waited for."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from roomful.errors import InputError
from roomful.queue_connection import QueueConnection
from roomful.queue_wire import attempt_of, host_of, parse_client, parse_output, parse_task
from roomful.records import ClientRecord, Counts, Output, State, TaskRecord

Progress = Callable[[Counts], None]

#: Ends gather for this long before they are asked for, and for longer where much is left to do.
GATHER_SECONDS, MOST_GATHER_SECONDS = 0.02, 0.2
#: Who waits for tasks asks for all that are missing no more often than this, and for no larger share of the time.
CHECK_SECONDS, CHECK_SHARE = 10.0, 0.05
#: Records fetched in one round trip, and ids handed to one call of a script.
_PAGE = 1000


class QueueReader(QueueConnection):
    """Everything that changes nothing."""

    def counts(self) -> Counts:
        """Count the tasks in each state, at one moment."""
        with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            for name in ("task", "running", "result", "late"):
                pipe.hlen(self.keys.prefix + name)
            pipe.scard(self.keys.failed)
            pipe.scard(self.keys.cancelled)
            pipe.hgetall(self.keys.pace)
            pipe.time()
            tasks, running, results, late, failed, cancelled, pace, now = _run(pipe)
        period = now[0] // 10
        recent = sum(int(count) for key, count in pace.items() if period - 6 <= int(key) <= period)
        return Counts(
            todo=tasks - running - results,
            running=running,
            done=results - failed - cancelled,
            failed=failed,
            cancelled=cancelled,
            late=late,
            rate=recent / (60 + now[0] % 10),
        )

    def clients(self) -> list[ClientRecord]:
        """List the agents, the newest of each host and state directory, by host."""
        with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            for name in ("agents", "beats", "gone", "tally"):
                pipe.hgetall(self.keys.prefix + name)
            pipe.smembers(self.keys.draining)
            pipe.zrange(self.keys.lease, 0, -1, withscores=True)
            pipe.time()
            agents, beats, gone, tally, draining, lease, now = _run(pipe)
        now_ms = now[0] * 1000 + now[1] // 1000
        heard = dict(lease)
        counted = {key.decode(): int(value) for key, value in tally.items()}
        records = []
        for name, about in agents.items():
            agent = name.decode()
            left, _, left_ms = gone.get(name, b"").decode().partition(" ")
            last = heard.get(name, float(left_ms or 0))
            drained = host_of(agent).encode() in draining
            record = parse_client(agent, about, beats.get(name), (now_ms - last) / 1000, counted)
            state = left or ("draining" if drained and record.state == "live" else record.state)
            records.append(dataclasses.replace(record, state=state, running=0 if left else record.running))
        return sorted(records, key=lambda record: (record.host, record.agent))

    def tasks(
        self,
        state: State | None = None,
        *,
        match: str | None = None,
        exclude: str | None = None,
        host: str | None = None,
        ids: Iterable[int] | None = None,
        limit: int | None = None,
    ) -> Iterator[TaskRecord]:
        """Go through tasks by id. ``match`` and ``exclude`` are regular expressions on command, name and tags.

        Each page of 1,000 is of one moment; what changes meanwhile may show in its old or its new state.
        """
        wanted, unwanted = _pattern(match), _pattern(exclude)
        left = limit
        for page in pages_of(self._ids_of(state) if ids is None else ids):
            for record in self._records(page):
                if left == 0:
                    return
                if state is not None and record.state != state:
                    continue
                if host is not None and record.host != host:
                    continue
                spec = record.spec
                # Each by itself, so that ^ and $ are its ends; a name that is not there matches nothing.
                texts = [spec.command, *filter(None, (spec.name, *spec.tags))]
                if wanted and not any(map(wanted.search, texts)):
                    continue
                if unwanted and any(map(unwanted.search, texts)):
                    continue
                yield record
                left = None if left is None else left - 1

    def task(self, task_id: int) -> TaskRecord | None:
        """Return one task; None if there is none with this id."""
        return next(iter(self._records([task_id])), None)

    def last_id(self) -> int:
        """Return the highest id that was given out; 0 before the first."""
        with self._answering():
            return int(self._redis.hget(self.keys.meta, "next_id") or 1) - 1  # type: ignore[arg-type]  # not async

    def log_end(self) -> str:
        """Return the cursor behind everything that has ended so far."""
        with self._answering():
            last: Any = self._redis.xrevrange(self.keys.log, count=1)
        return last[0][0].decode() if last else "0-0"

    def output(self, task_id: int, stream: Literal["stdout", "stderr"] = "stdout") -> Output:
        """Return what the last attempt that ended wrote."""
        record = self.task(task_id)
        if record is None:
            raise InputError(f"there is no task {task_id}", fix="list them with: inv tasks")
        return self.outputs([record], stream)[0]

    def outputs(self, records: Sequence[TaskRecord], stream: Literal["stdout", "stderr"] = "stdout") -> list[Output]:
        """Return what the last ended attempts of these tasks wrote, in one round trip: at most some hundred tasks."""
        if not records:
            return []
        with self._answering():
            stored: Any = self._redis.hmget(self.keys.prefix + stream, [str(record.id) for record in records])
        outputs = [parse_output(one, _output_host(record)) for one, record in zip(stored, records, strict=True)]
        return [_from_where_it_is(output, record) for output, record in zip(outputs, records, strict=True)]

    def outcomes(self, since: str = "") -> Iterator[TaskRecord]:
        """Go through tasks that have ended, in the order of their ends; each has the ``cursor`` to go on from.

        A task that was let try again after it failed shows once, with its last result.
        """
        cursor = since or "0-0"
        while True:
            with self._answering():
                entries: Any = self._redis.xrange(self.keys.log, f"({cursor}", "+", count=_PAGE)
            if not entries:
                return
            records = {record.id: record for record in self._records([int(fields[b"i"]) for _, fields in entries])}
            for key, fields in entries:
                cursor = key.decode()
                record = records.get(int(fields[b"i"]))
                if record and record.ended_ms and record.attempt == int(fields[b"a"]):
                    yield dataclasses.replace(record, cursor=cursor)

    def wait(
        self,
        ids: Iterable[int] | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Wait until these tasks (None: all) have ended; False if ``timeout`` seconds were not enough.

        The server wakes us: nothing is polled but the counts for ``progress``, about once a second.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        cursor = self.log_end()
        missing = None if ids is None else self._unfinished(set(ids))
        next_count, next_check = 0.0, time.monotonic() + CHECK_SECONDS
        pause = GATHER_SECONDS
        while True:
            now = time.monotonic()
            ended = missing is not None and not missing
            if ended or now >= min(next_count, deadline):
                counts = self.counts()
                next_count = now + 1.0
                pause = min(MOST_GATHER_SECONDS, max(GATHER_SECONDS, (counts.todo + counts.running) / 20_000))
                if progress:
                    progress(counts)
                if ended or (missing is None and counts.todo + counts.running == 0):
                    return True
                if now >= deadline:
                    return False
            if missing and now >= next_check:
                # Forgotten and reset tasks never reach the log; a retried one is waited for again.
                missing = self._unfinished(missing)
                took = time.monotonic() - now
                next_check = now + took + max(CHECK_SECONDS, took / CHECK_SHARE)
                continue
            block = max(1, int((min(next_count, deadline) - now) * 1000))
            with self._answering():
                count = 1 if missing is None else _PAGE
                reply: Any = self._redis.xread({self.keys.log: cursor}, block=block, count=count)
            if reply and missing is None:
                # Which tasks have ended does not matter, and reading it would cost more than ending them.
                cursor = self.log_end()
            elif reply and missing is not None:
                cursor = reply[0][1][-1][0].decode()
                missing.difference_update(int(fields[b"i"]) for _, fields in reply[0][1])
            if reply:
                # Let some more gather, rather than ask for each alone.
                time.sleep(pause if missing is None else GATHER_SECONDS)
                next_count = min(next_count, now + 0.1) if missing is None else next_count

    def _ids_of(self, state: State | None) -> Iterable[int]:
        """Return ids that include all tasks in a state, in order."""
        found: Any
        with self._answering():
            if state == "running":
                found = self._redis.hkeys(self.keys.running)
            elif state in ("failed", "cancelled"):
                found = self._redis.smembers(self.keys.prefix + state)
            elif state == "done":
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.hkeys(self.keys.result)
                    pipe.smembers(self.keys.failed)
                    pipe.smembers(self.keys.cancelled)
                    ended, failed, cancelled = _run(pipe)
                found = set(ended) - failed - cancelled
            else:
                return range(1, self.last_id() + 1)
        return sorted(int(task_id) for task_id in found)

    def _records(self, ids: Sequence[int]) -> list[TaskRecord]:
        if not ids:
            return []
        names = [str(task_id) for task_id in ids]
        with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            for key in ("task", "running", "result", "tries"):
                pipe.hmget(self.keys.prefix + key, names)
            columns = _run(pipe)
        return [parse_task(task_id, *row) for task_id, *row in zip(ids, *columns, strict=True) if row[0] is not None]

    def _unfinished(self, ids: set[int]) -> set[int]:
        found: set[int] = set()
        for page in pages_of(sorted(ids)):
            with self._answering():
                found.update(map(int, self.scripts.call("unfinished", *page)))
        return found


def _run(pipe: Any) -> list[Any]:
    replies: list[Any] = pipe.execute()
    return replies


def _output_host(record: TaskRecord) -> str:
    """Return the host on which the last attempt that ended ran."""
    return record.host if record.ended_ms else record.tries[-1].host if record.tries else ""


def _from_where_it_is(output: Output, record: TaskRecord) -> Output:
    """Correct the host of a file of an earlier attempt: the last one wrote nothing that is kept."""
    attempt = attempt_of(output.path)
    found = next((tried.host for tried in record.tries if tried.attempt == attempt), output.host)
    return dataclasses.replace(output, host=found)


def pages_of(ids: Iterable[int]) -> Iterator[list[int]]:
    page: list[int] = []
    for task_id in ids:
        page.append(task_id)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InputError(f"bad pattern {text!r}", why=str(error), fix="write a regular expression") from None
