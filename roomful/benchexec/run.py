"""A definition's jobs on many machines, from what is shipped to the last result."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful.benchexec.campaign import Campaign
from roomful.benchexec.follow import Follower, JobEnd, end_of, task_of
from roomful.benchexec.plan import Job, Plan
from roomful.benchexec.stage import Load, make_stage
from roomful.benchexec.workers import Preparation, Worker, look, prepare, refuse_mixed
from roomful.deploy import Deployment
from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host
from roomful.queue import Queue
from roomful.records import ClientRecord
from roomful.server import Server, open_queue

#: Machines that were locked or away are looked at again after this many seconds.
LOOK_AGAIN_SECONDS = 15.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunOptions:
    """How jobs are run; both lists are words of a command line, in which ``{workdir}`` is the worker's folder."""

    #: For runexec's trial on each worker, and for BenchExec: how a run is kept apart from the machine.
    runexec: tuple[str, ...] = ()
    #: For BenchExec alone.
    benchexec: tuple[str, ...] = ()
    mixed_hardware: bool = False


@dataclass(frozen=True)
class Events:
    """Who is told what: a line a thing that happens, and each job's end."""

    tell: Callable[[str], None]
    job_ended: Callable[[JobEnd], None]


def identity(plan: Plan, load: Load, options: RunOptions) -> dict[str, object]:
    """Return what must be the same for results to belong to one run."""
    return {
        "definition": plan.definition.name,
        **load.digests(),
        "split": plan.split,
        "jobs": [job.id for job in plan.jobs],
        "options": list(options.benchexec),
        "runexec-options": list(options.runexec),
    }


class BenchRun:
    """A run that has begun (``Campaign.begin``)."""

    def __init__(self, campaign: Campaign, plan: Plan, load: Load, options: RunOptions, events: Events) -> None:
        self.campaign = campaign
        self.plan = plan
        self.load = load
        self.options = options
        self.events = events
        self.workers: dict[Host, Worker] = {}
        self.started = time.monotonic()
        self._again: threading.Thread | None = None
        self._looked = time.monotonic()

    def tell(self, line: str) -> None:
        """Say what happens, and write it down."""
        self.campaign.log(line)
        self.events.tell(line)

    # -- machines -----------------------------------------------------------------------------------------------

    def gather(self, hosts: Sequence[Host]) -> list[Worker]:
        """Look at the hosts, start a queue, and make every host ready that can measure and is free.

        Raises InputError for CPUs that do not compare.
        """
        settings = self.campaign.settings
        self.campaign.note_hosts(hosts)
        seen = look(hosts, settings)
        if not self.options.mixed_hardware:
            refuse_mixed(seen)
        stage = self.campaign.root / "stage"
        make_stage(self.load, stage)
        Server.of(settings).start()
        with open_queue(settings) as queue:
            queue.configure({"nice": 0})
            at_work = {record.host for record in queue.clients() if record.state == "live"}
        # Of a run that goes on: nothing is shipped there while it measures.
        ours = [dataclasses.replace(one, state="ready", why="") for one in seen if one.host.label in at_work]
        free = [one for one in seen if one.state == "looked" and one.host.label not in at_work]
        made = prepare(free, settings, self._preparation(), self.tell)
        self.workers = {one.host: one for one in (*seen, *ours, *made)}
        return list(self.workers.values())

    def need_somebody(self) -> None:
        """Raise RoomfulError where no host is ready, or will be when others leave it."""
        if not any(worker.state in ("ready", "locked") for worker in self.workers.values()):
            raise RoomfulError("no host can run a job now")

    def _preparation(self) -> Preparation:
        deployment = Deployment(self.campaign.root / "stage", delete=True, relay="auto")
        return Preparation(deployment, self.load.archive_path, self.options.runexec)

    @property
    def hopeless(self) -> bool:
        """Whether no machine will ever take a job."""
        return all(worker.state == "rejected" for worker in self.workers.values())

    def _tend(self, clients: Sequence[ClientRecord]) -> None:
        """Notice which machines have gone or come back, and look again at those that are not ours yet."""
        records = {record.host: record for record in clients}
        for host, worker in self.workers.items():
            record = records.get(host.label)
            if record is None or worker.state == "rejected":
                continue
            state, why = worker.state, worker.why
            if record.state == "live" and record.busy_with.startswith("locked"):
                state, why = "ready", record.busy_with
            elif record.state == "live":
                state, why = "ready", ""
            elif record.state in ("lost", "stopped") and worker.state == "ready":
                silent = f"lost: no heartbeat for {self.campaign.settings.lease_seconds:g} s"
                state, why = "away", silent if record.state == "lost" else "its agent was stopped"
            self._note(dataclasses.replace(worker, state=state, why=why))
        waiting = [worker for worker in self.workers.values() if worker.state in ("locked", "away")]
        busy = self._again is not None and self._again.is_alive()
        if waiting and not busy and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
            self._looked = time.monotonic()
            # A host that is away takes its time to be so; results of others are not to wait for that.
            self._again = threading.Thread(target=self._look_again, args=(waiting,), daemon=True, name="look again")
            self._again.start()

    def _look_again(self, waiting: Sequence[Worker]) -> None:
        try:
            seen = look([worker.host for worker in waiting], self.campaign.settings)
            fit = [worker for worker in seen if worker.state == "looked"]
            fit = fit if self.options.mixed_hardware else self._of_the_same_kind(fit)
            for worker in [w for w in seen if w.state != "looked"]:
                self._note(worker)
            for worker in prepare(fit, self.campaign.settings, self._preparation(), self.tell):
                self._note(worker)
        except RoomfulError as error:
            self.tell(f"cannot look again at machines that were not ready: {error}")
        self._looked = time.monotonic()

    def _of_the_same_kind(self, workers: Sequence[Worker]) -> list[Worker]:
        models = {worker.cpu_model for worker in self.workers.values() if worker.state == "ready"}
        fit = [worker for worker in workers if not models or worker.cpu_model in models]
        for worker in workers:
            if worker not in fit:
                self._note(dataclasses.replace(worker, state="rejected", why=f"another CPU: {worker.cpu_model}"))
        return fit

    def _note(self, worker: Worker) -> None:
        before = self.workers[worker.host]
        self.workers[worker.host] = worker
        if (worker.state, worker.why) != (before.state, before.why) and worker.state != "looked":
            self.tell(f"{worker.host.label}: {worker.why or worker.state}")

    # -- jobs ---------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, JobEnd]:
        """Run every job that is not here yet; return what became of each. A KeyboardInterrupt passes through."""
        settings = self.campaign.settings
        with open_queue(settings) as queue:
            follower = self._follower(queue)
            before = follower.begin()
            if before:
                self.tell(f"{before} of {len(self.plan.jobs)} jobs are finished already")
            while not follower.done:
                for end in follower.step(POLL_SECONDS):
                    self.tell(end.sentence)
                    self.events.job_ended(end)
                self._tend(queue.clients())
                if self.hopeless:
                    self.tell("no machine is left that can measure")
                    break
        return follower.ended

    def finished(self) -> dict[str, JobEnd]:
        """Return every job if all are here already, as of a run that is resumed; else nothing."""
        ends = {job.id: end_of(self.plan, job, self.campaign.folder) for job in self.plan.jobs}
        return {} if any(end.why for end in ends.values()) else ends

    def _follower(self, queue: Queue) -> Follower:
        environment = {"ROOMFUL_IN_SCRIPT": "1"} if self.load.script else {}
        specs = {job.id: task_of(job, self.plan, self._argv(job), environment) for job in self.plan.jobs}
        return Follower(queue, self.plan, specs, self.campaign.folder, self.campaign.settings, self.tell)

    def _argv(self, job: Job) -> list[str]:
        if self.load.script is not None:
            return [self.load.script_path, self.load.definition, *job.task_sets, self.campaign.name]
        # Of an option that is given twice the last one counts.
        own = [f"--name={self.campaign.name}", "--outputpath={output}/"]
        return job.arguments(self.load.definition, [*self.options.runexec, *self.options.benchexec, *own])

    @property
    def seconds(self) -> float:
        """How long this process has worked on it."""
        return time.monotonic() - self.started


def check_script(plan: Plan, script: Path | None) -> None:
    """Refuse a start script that would get several task sets; raises InputError."""
    if script is not None and plan.split != "taskset":
        why = "a script is called with one task set and runs all its run definitions"
        raise InputError(f"--start-script does not go with --split={plan.split}", why=why, fix="leave --split out")


def check_options(words: Sequence[str]) -> None:
    """Refuse options of BenchExec's that are the run's own; raises InputError."""
    own = ("-o", "--outputpath", "-n", "--name", "-t", "--tasks", "-r", "--rundefinition")
    for word in words:
        if word.partition("=")[0] in own or (word[:2] in own and not word.startswith("--")):
            fix = "leave it out; a run's name is --name of bench.run"
            raise InputError(f"{word} is for the run to say", where="--options", fix=fix)
