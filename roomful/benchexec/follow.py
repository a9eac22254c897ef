"""The jobs of a run from the queue to the results folder: fetched when they end, run again when lost."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful.agent.task import TaskSpec
from roomful.benchexec.harvest import JOBS, Attempt, account_of, fetch_attempts
from roomful.benchexec.judge import Finding, judge
from roomful.benchexec.plan import Job, Plan
from roomful.benchexec.stage import start_line
from roomful.queue import Queue
from roomful.records import TaskRecord
from roomful.settings import Settings

#: A job that fails by itself is tried so often again, elsewhere if possible.
RETRIES = 2
#: A job whose results went down with their machine runs again, at most so often.
RERUNS = 2
#: Results that cannot be fetched are tried again this often, in seconds, and given up after that.
FETCH_AGAIN_SECONDS = 5.0
FETCH_FOR_SECONDS = 60.0


@dataclass(frozen=True)
class JobEnd:
    """What became of a job; ``why`` is empty where its results are here, whole."""

    job: Job
    host: str
    attempt: int
    #: Of the attempt that counts, on the worker's clock.
    seconds: float
    #: How many runs ended with each status.
    counts: Mapping[str, int]
    why: str = ""

    @property
    def sentence(self) -> str:
        """What became of it, for people."""
        from roomful.report import duration

        if self.why:
            return f"{self.job.id} failed{f' on {self.host}' if self.host else ''}: {self.why}"
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        return f"{self.host} finished {self.job.id} in {duration(self.seconds)}: {counts}"


@dataclass
class _Lost:
    """Results that could not be fetched yet."""

    attempt: Attempt
    since: float
    next_try: float


def task_of(job: Job, plan: Plan, argv: Sequence[str], environment: Mapping[str, str]) -> TaskSpec:
    """Return a job as a task of the queue."""
    spec = {
        "job": job.id,
        "argv": list(argv),
        "benchmark": plan.definition.name,
        "results": list(job.results),
        "env": dict(environment),
    }
    line = start_line("bench_job", json.dumps(spec))
    return TaskSpec(f"exec {line}", name=job.id, retries=RETRIES, tags=("bench",))


class Follower:
    """Follows a run's tasks until each job has ended."""

    def __init__(
        self,
        queue: Queue,
        plan: Plan,
        specs: Mapping[str, TaskSpec],
        folder: Path,
        settings: Settings,
        tell: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._plan = plan
        self._specs = specs
        self._folder = folder
        self._settings = settings
        self._tell = tell
        self._jobs = {job.id: job for job in plan.jobs}
        #: Task -> job, of those that have not ended for us.
        self._tasks: dict[int, Job] = {}
        self._lost: dict[int, _Lost] = {}
        self._reruns: dict[str, int] = {}
        self._seen: set[tuple[int, int, str]] = set()
        self.ended: dict[str, JobEnd] = {}

    def begin(self) -> int:
        """Submit every job that is neither here nor in the queue; return how many were finished before."""
        newest = {record.spec.name: record for record in self._queue.tasks()}
        for job in self._plan.jobs:
            end = end_of(self._plan, job, self._folder)
            if not end.why:
                self.ended[job.id] = end
            elif (record := newest.get(job.id)) and record.state in ("todo", "running", "done"):
                self._tasks[record.id] = job
        before = len(self.ended)
        followed = {job.id for job in self._tasks.values()}
        self._submit([job for job in self._plan.jobs if job.id not in self.ended and job.id not in followed])
        return before

    def _submit(self, jobs: Sequence[Job]) -> None:
        if jobs:
            report = self._queue.submit([self._specs[job.id] for job in jobs], allow_duplicates=True)
            self._tasks.update(zip(report.ids, jobs, strict=True))

    @property
    def done(self) -> bool:
        """Whether every job has ended."""
        return not self._tasks

    def step(self, seconds: float) -> list[JobEnd]:
        """Wait for news for at most so long, and return the jobs that have ended."""
        open_ones = [task for task in self._tasks if task not in self._lost]
        if open_ones:
            self._queue.wait(open_ones, timeout=seconds)
        else:
            time.sleep(seconds)
        records = [record for record in self._queue.tasks(ids=sorted(self._tasks)) if record.id in self._tasks]
        for record in records:
            self._say(record)
        gone = set(self._tasks) - {record.id for record in records}
        ends = [self._finish(task, why="it was removed from the queue") for task in gone]
        now = time.monotonic()
        fetchable = [r for r in records if r.state == "done" and self._due(r, now)]
        ends += self._fetched(fetchable, now)
        ends += [self._failed(r) for r in records if r.state in ("failed", "cancelled")]
        return ends

    def _due(self, record: TaskRecord, now: float) -> bool:
        lost = self._lost.get(record.id)
        return lost is None or now >= lost.next_try

    def _say(self, record: TaskRecord) -> None:
        job = self._tasks[record.id]
        for one in record.tries:
            if self._is_news(record.id, one.attempt, "tried"):
                detail = f": {one.detail}" if one.detail else ""
                more = "; it runs again" if record.state in ("todo", "running", "done") else ""
                self._tell(f"{job.id} on {one.host}, attempt {one.attempt}: {one.reason}{detail}{more}")
        if record.state == "running" and self._is_news(record.id, record.attempt, "runs"):
            self._tell(f"{record.host} runs {job.id}")

    def _is_news(self, task: int, attempt: int, what: str) -> bool:
        news = (task, attempt, what) not in self._seen
        self._seen.add((task, attempt, what))
        return news

    def _fetched(self, records: Iterable[TaskRecord], now: float) -> list[JobEnd]:
        """Bring results home; where they cannot be had any more, their job runs again."""
        wanted = {Attempt(self._tasks[r.id].id, r.attempt, r.host, True): r for r in records}
        if not wanted:
            return []
        harvest = fetch_attempts(wanted, self._folder, self._settings)
        ends = []
        for attempt in harvest.here:
            record = wanted[attempt]
            self._aside(record)
            end = end_of(self._plan, self._tasks[record.id], self._folder)
            ends += self._again(record.id, end.why) if end.why else [self._finish(record.id, end)]
        for attempt, why in harvest.missing.items():
            task = wanted[attempt].id
            lost = self._lost.setdefault(task, _Lost(attempt, now, now))
            lost.next_try = now + FETCH_AGAIN_SECONDS
            if lost.since == now:
                self._tell(f"{attempt.job}: its results are still on {attempt.host}: {why}")
            if now - lost.since > FETCH_FOR_SECONDS or "No such file" in why:
                ends += self._again(task, f"its results are lost with {attempt.host}: {why}")
        return ends

    def _again(self, task: int, why: str) -> list[JobEnd]:
        """Let a job run again, if that was not done too often."""
        job = self._tasks[task]
        self._reruns[job.id] = self._reruns.get(job.id, 0) + 1
        if self._reruns[job.id] > RERUNS:
            return [self._finish(task, why=why)]
        self._tell(f"{job.id}: {why}; it runs again")
        del self._tasks[task]
        self._lost.pop(task, None)
        self._submit([job])
        return []

    def _failed(self, record: TaskRecord) -> JobEnd:
        """Give a job up, and keep aside what its attempts left."""
        self._aside(record)
        said = self._queue.outputs([record], "stderr")[0]
        lines = (said.tail or said.head).decode(errors="replace").strip().splitlines()
        parts = (record.reason or record.state, record.detail, lines[-1] if lines else "")
        return self._finish(record.id, why=": ".join(part for part in parts if part), host=record.host)

    def _aside(self, record: TaskRecord) -> None:
        """Fetch what failed attempts left, if their workers still have it."""
        job = self._tasks[record.id].id
        tries = {(one.attempt, one.host) for one in record.tries if one.reason.startswith("exit")}
        if record.state == "failed":
            tries.add((record.attempt, record.host))
        failed = [Attempt(job, number, host, False) for number, host in sorted(tries) if host]
        if failed:
            for attempt, why in fetch_attempts(failed, self._folder, self._settings).missing.items():
                self._tell(f"{job}: what attempt {attempt.number} left on {attempt.host} is lost: {why}")

    def _finish(self, task: int, end: JobEnd | None = None, *, why: str = "", host: str = "") -> JobEnd:
        job = self._tasks.pop(task)
        self._lost.pop(task, None)
        end = end or JobEnd(job, host, 0, 0.0, {}, why)
        self.ended[job.id] = end
        return end


def end_of(plan: Plan, job: Job, run: Path) -> JobEnd:
    """Judge what is in a run's folder of a job."""
    findings = judge_job(plan, job, run)
    account = account_of(run, job.id)
    counts: Counter[str] = Counter()
    for finding in findings:
        counts.update(finding.file.counts if finding.file else {})
    why = "; ".join(one.why for one in findings if one.file is None)
    host, seconds = str(account.get("host", "")), float(account.get("seconds", 0.0))
    return JobEnd(job, host, int(account.get("attempt", 0)), seconds, counts, why)


def judge_job(plan: Plan, job: Job, run: Path) -> list[Finding]:
    """Say which results of a job are here, whole."""
    return judge(dataclasses.replace(plan, jobs=(job,)), run / JOBS / job.id)
