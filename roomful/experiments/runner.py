"""Run a plan: connect, call the experiments in order or side by side, restart, record."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful.errors import RoomfulError
from roomful.experiments.csv_generator import CSVGenerator
from roomful.experiments.errors import ExperimentFailed, Interrupted
from roomful.experiments.journal import Journal
from roomful.experiments.logs import logger
from roomful.experiments.outcomes import Action
from roomful.experiments.plan import Plan
from roomful.experiments.provenance import now
from roomful.experiments.registry import Experiment
from roomful.experiments.results import Result, Results
from roomful.experiments.session import KILL_SECONDS, Session, leave
from roomful.hosts import Host
from roomful.settings import Settings
from roomful.warm import WarmHosts

#: Pause before an experiment is run again, in seconds.
RESTART_PAUSE = 1.0
#: With ``--jobs``, so many experiments are looked at for one whose servers are free.
LOOK_AHEAD = 1000


@dataclass(frozen=True)
class RunOptions:
    """How to run. ``jobs``: most experiments at a time, on disjoint servers."""

    resume: bool = False
    keep_going: bool = False
    jobs: int = 1


#: Called in the thread of an experiment when it begins (None) and when it has ended.
OnProgress = Callable[[Experiment, Result | None], None]


class Runner:
    """Run experiments; what they leave goes to ``results``, what is finished to ``journal``."""

    def __init__(self, settings: Settings, options: RunOptions, journal: Journal, results: Results) -> None:
        self._settings = settings
        self._options = options
        self._journal = journal
        self._results = results
        self._sessions: set[Session] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._warm = WarmHosts(settings)
        self._stopping = False
        #: Set when everything is to end: no attempt begins any more.
        self._ending = threading.Event()
        self.interrupted = False

    def run(self, plan: Plan, on_progress: OnProgress | None = None) -> list[Result]:
        """Run all and return one result each, in the plan's order.

        After a KeyboardInterrupt, ``interrupted`` is set and nothing is left running anywhere.
        """
        progress: OnProgress = on_progress or _no_progress
        results: dict[int, Result] = {}

        def one(number: int) -> None:
            experiment = plan.experiments[number]
            progress(experiment, None)
            result = self._execute(experiment)
            results[number] = result
            self._record(result)
            progress(experiment, result)
            if result.status != "ok" and not self._options.keep_going:
                self._stopping = True

        self._journal.begin(plan.experiments, plan.seed, self._options.resume)
        todo = []
        for number, experiment in enumerate(plan.experiments):
            if self._options.resume and self._journal.skips(experiment):
                results[number] = Result(experiment, "skipped", "finished in an earlier run")
                progress(experiment, results[number])
            else:
                todo.append(number)
        try:
            if self._options.jobs == 1:
                # In this thread: experiment files may use signals, and Ctrl-C ends what they wait for.
                for number in todo:
                    if not self._stopping:
                        one(number)
            else:
                self._side_by_side(plan, todo, one)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self._end_all()
        self._results.finish()
        for number in todo:
            why = "interrupted before" if self.interrupted else "an experiment before it failed"
            results.setdefault(number, Result(plan.experiments[number], "not run", why))
        return [results[number] for number in range(len(plan.experiments))]

    def _end_all(self) -> None:
        with self._lock:
            self._ending.set()
            sessions = list(self._sessions)
        for session in sessions:
            session.abort(Interrupted())
        deadline = time.monotonic() + KILL_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        self._warm.close()

    def _record(self, result: Result) -> None:
        if not result.experiment.registration.run_always:
            self._journal.add(result.experiment, result.status, result.detail)
        if result.status == "interrupted":
            self.interrupted = self._stopping = True

    def _side_by_side(self, plan: Plan, todo: Sequence[int], one: Callable[[int], None]) -> None:
        """Run experiments whose servers are disjoint at the same time; those that share some keep their order."""
        changed = threading.Condition()
        busy: dict[int, set[Host]] = {}
        waiting = list(todo)
        needs = {number: set(self._hosts(plan.experiments[number]).values()) for number in waiting}
        crashed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                one(number)
            except BaseException as error:
                crashed.append(error)
            finally:
                with changed:
                    del busy[number]
                    changed.notify_all()

        with changed:
            while (waiting and not self._stopping) or busy:
                number = None if self._stopping else self._next(waiting, needs, busy)
                if number is None or len(busy) >= self._options.jobs:
                    changed.wait()
                else:
                    waiting.remove(number)
                    busy[number] = needs[number]
                    worker = threading.Thread(target=work, args=(number,), daemon=True, name=f"experiment {number}")
                    self._workers = [*(known for known in self._workers if known.is_alive()), worker]
                    worker.start()
        if crashed:
            raise crashed[0]

    @staticmethod
    def _next(waiting: Sequence[int], needs: dict[int, set[Host]], busy: dict[int, set[Host]]) -> int | None:
        taken = set[Host]().union(*busy.values())
        for number in waiting[:LOOK_AHEAD]:
            if taken.isdisjoint(needs[number]):
                return number
            taken |= needs[number]
        return None

    def _hosts(self, experiment: Experiment) -> dict[str, Host]:
        return {server.id: server.entry(self._settings) for server in experiment.servers}

    def _execute(self, experiment: Experiment) -> Result:
        began, begin = now(), time.monotonic()
        restarts = 0
        machines: dict[str, Any] = {}
        try:
            while True:
                answer = self._attempt(experiment, machines)
                if answer is not Action.RESTART:
                    status, detail = "ok", ""
                    break
                most = experiment.registration.max_restarts
                if most and restarts == most:
                    raise ExperimentFailed(f"asked for more than {most} restarts")
                restarts += 1
                logger.warning("%s asks for a restart (number %d)", experiment.name, restarts)
                if self._ending.wait(RESTART_PAUSE):
                    raise Interrupted()
        except KeyboardInterrupt:
            status, detail = "interrupted", ""
        except RoomfulError as error:
            status, detail = "failed", str(error)
            logger.error("%s failed: %s", experiment.name, error)
        except (Exception, SystemExit) as error:
            status, detail = "failed", _describe(error, experiment)
            logger.error("%s failed\n%s", experiment.name, _traceback(error))
        seconds = time.monotonic() - begin
        result = Result(experiment, status, detail, seconds, restarts, began, now())  # type: ignore[arg-type]
        self._results.add(result, machines)
        return result

    def _attempt(self, experiment: Experiment, machines: dict[str, Any]) -> Any:
        """Call the experiment once, and kill what it leaves running."""
        registration = experiment.registration
        hosts = self._hosts(experiment)
        outcomes = self._warm.connect(tuple(hosts.values()))
        commands = {id: outcome.value for id, outcome in zip(hosts, outcomes, strict=True) if outcome.value}
        machines.update({id: dict(command.about) for id, command in commands.items()})
        failed = [f"{one.host.label}: {one.reason}: {one.detail}" for one in outcomes.not_ok]
        if failed and not registration.tolerant:
            raise ExperimentFailed(f"{len(failed)} of {len(hosts)} servers cannot be reached", why="; ".join(failed))
        for line in failed:
            logger.warning("%s", line)
        session = Session(
            commands,
            registration.raise_on_rc,
            lambda row, path: self._results.add_row(experiment, row, path),
        )
        with self._entered(session, experiment):
            answer = registration.function(experiment.servers, **experiment.params)
        # What a handler or a command did wrong counts even where the experiment did not look.
        if session.failure:
            raise session.failure
        if session.left:
            raise ExperimentFailed("not everything could be ended", why="; ".join(session.left))
        for handler in session.handlers.values():
            if isinstance(handler, CSVGenerator):
                handler.record_unwritten(session.record)
        return answer

    @contextlib.contextmanager
    def _entered(self, session: Session, experiment: Experiment) -> Iterator[None]:
        with self._lock:
            if self._ending.is_set():
                raise Interrupted()
            self._sessions.add(session)
        for server in experiment.servers:
            server.bind(session, experiment.servers.working_directory or "")
        session.enter()
        try:
            yield
        finally:
            try:
                session.end()
            finally:
                leave()
                with self._lock:
                    self._sessions.discard(session)
                for server in experiment.servers:
                    server.bind(None)


def _no_progress(experiment: Experiment, result: Result | None) -> None:
    del experiment, result


def _describe(error: BaseException, experiment: Experiment) -> str:
    """One line: the error, and the line of the experiment file where it came up."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    # A function may be registered from another file than its own.
    code = getattr(experiment.registration.function, "__code__", None)
    files = {experiment.registration.file, code.co_filename if code else ""}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def _traceback(error: BaseException) -> str:
    """The traceback without our own frames that lead to the experiment."""
    tb = error.__traceback__
    own = Path(__file__).parent
    while tb and tb.tb_next and Path(tb.tb_frame.f_code.co_filename).parent == own:
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb)).rstrip()
