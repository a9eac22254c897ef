"""A definition's jobs on many machines, from what is shipped to the last result."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roomful.benchexec.campaign import Campaign, Leftover
from roomful.benchexec.follow import Follower, JobEnd, end_of, task_of
from roomful.benchexec.plan import Job
from roomful.benchexec.request import Order
from roomful.benchexec.stage import make_stage
from roomful.benchexec.summary import Summary, summarise
from roomful.benchexec.workers import Preparation, Worker, look, prepare, refuse_mixed
from roomful.deploy import Deployment
from roomful.errors import RoomfulError
from roomful.hosts import Host
from roomful.queue import Queue
from roomful.records import ClientRecord
from roomful.server import Server, open_queue
from roomful.settings import Settings

#: Machines that were locked or away are looked at again after this many seconds.
LOOK_AGAIN_SECONDS = 15.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Events:
    """Who is told what."""

    #: A line for each thing that happens.
    tell: Callable[[str], None]
    job_ended: Callable[[JobEnd], None]
    #: The machines as they are before the first job.
    workers: Callable[[Sequence[Worker]], None]
    #: The hosts that could not be cleaned at the end.
    left: Callable[[Sequence[Leftover]], None]


def run_benchmark(order: Order, settings: Settings, hosts: Sequence[Host], events: Events) -> Summary:
    """Run what is not here yet of an order on these hosts, end its cluster, and merge all results into one report.

    A KeyboardInterrupt passes through, and what was begun goes on.
    Raises InputError for a run that is not to be begun or resumed so, and for CPUs that do not compare; RoomfulError
    where no host can measure, or the report cannot be made.
    """
    campaign = Campaign(order.name, settings)
    campaign.begin(order.identity(), order.resume)
    bench = BenchRun(campaign, order, events)
    # Of a run that is finished nothing is asked of any machine.
    ends = bench.finished() or bench.measured(hosts)
    events.left(campaign.end())
    summary = summarise(order.plan, campaign, ends, order.load.tree.root, order.program)
    return dataclasses.replace(summary, seconds=bench.seconds)


class BenchRun:
    """A run that has begun (``Campaign.begin``)."""

    def __init__(self, campaign: Campaign, order: Order, events: Events) -> None:
        self.campaign = campaign
        self.order = order
        self.plan = order.plan
        self.load = order.load
        self.options = order.options
        self.events = events
        self.workers: dict[Host, Worker] = {}
        self.started = time.monotonic()
        self._again: threading.Thread | None = None
        self._looked = time.monotonic()

    def tell(self, line: str) -> None:
        """Say what happens, and write it down."""
        self.campaign.log(line)
        self.events.tell(line)

    def measured(self, hosts: Sequence[Host]) -> dict[str, JobEnd]:
        """Run what is not here yet; return what became of each job. Where no host can, the run has not begun."""
        try:
            self.events.workers(self.gather(hosts))
            self.need_somebody()
        except RoomfulError:
            # What goes on of a run that is resumed is not ended by a mistake.
            if not self.order.resume:
                self.events.left(self.campaign.abandon())
            raise
        return self.run()

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
