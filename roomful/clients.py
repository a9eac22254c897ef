"""The agents on the clients: start them and wait until the queue knows them, stop them and clean up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roomful.bundle import Bundle
from roomful.client_links import Unlinker, check_length, link_record, run_directory
from roomful.errors import RoomfulError
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcomes
from roomful.queue import Queue
from roomful.server import Server
from roomful.settings import Settings
from roomful.shipping import Absent, Landing, project_bundle, reply_in, ship_agent
from roomful.ssh import HostConnection, fan_out

#: An agent must have registered this many seconds after it was started.
REGISTER_SECONDS = 20.0
#: How often the queue is asked who is there.
POLL_SECONDS = 0.1
#: Seconds that an agent has to give its tasks back before it is killed.
STOP_SECONDS = 30.0
#: Called with the number of hosts that are done, the number of all, and a note.
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Agent:
    """An agent on a client."""

    #: ``started``, ``restarted``, or ``running``: it ran already.
    state: str
    #: Its name in the queue; empty if it has not registered.
    name: str = ""
    slots: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0
    #: It runs the code of another version of Roomful, or with other settings than asked for; a restart changes that.
    outdated: bool = False
    changed: bool = False
    #: The end of its log, where it has not registered.
    log: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Stopped:
    """What stopping did on one client."""

    #: ``stopped``, or ``absent``: none ran.
    state: str
    #: Processes of tasks that had to be killed because only their environment tied them to the agent.
    killed: int = 0
    #: Files with long outputs that stay in the client's folder until they are collected.
    kept: int = 0


def start_clients(
    hosts: Sequence[Host],
    settings: Settings,
    *,
    slots: int = 0,
    live: Mapping[str, Any] | None = None,
    restart: bool = False,
    report: Report | None = None,
) -> Outcomes[Agent]:
    """Start an agent on every host where none runs, and wait until the queue knows it.

    ``slots`` is the most tasks at a time on a host; 0: as many as it has CPUs. ``live`` are settings that these hosts
    alone follow from now on, as by ``Queue.configure``. A host whose agent does not register
    within REGISTER_SECONDS fails with the reason ``not-registered`` and the end of its log.
    Raises ServerError when the server does not run.
    """
    server = Server.of(settings)
    cluster = server.state.cluster_name
    with server.access() as access, access.queue(cluster) as queue:
        bundle = project_bundle(server.state)
        records: dict[str, dict[str, Any]] = {}
        tell = _Counter(len(hosts), report)
        for host in hosts if live else ():
            queue.configure(live or {}, host=host.label)

        def work(connection: HostConnection) -> Agent:
            host = connection.entry
            landing = ship_agent(connection, run_directory(host, settings), bundle)
            check_length(landing)
            config = {
                "cluster": cluster,
                "host": host.label,
                "socket": f"{landing.directory}/valkey.sock",
                "workdir": settings.workdir,
                "directory": landing.directory,
                "username": "agent",
                "password": access.passwords["agent"],
                "slots": slots,
                "heartbeat_seconds": settings.heartbeat_seconds,
                "cut_off_grace_seconds": settings.cut_off_grace_seconds,
                "host_lock": settings.host_lock,
            }
            reply = ask(connection, landing, {"verb": "start", "config": config, "restart": restart})
            records[host.label] = link_record(connection, settings, landing, access)
            return Agent(reply["state"], outdated=reply["outdated"], changed=reply["changed"], pid=reply["pid"])

        outcomes = fan_out(hosts, work, settings, lambda outcome: tell.failed() if outcome.status != "ok" else None)
        if records:
            server.change_clients(add=records)
        outcomes = _await_registration(queue, outcomes, tell)
        silent = [outcome.host for outcome in outcomes if outcome.reason == "not-registered"]
        if silent:
            outcomes = _with_reasons(outcomes, silent, settings, bundle, server)
        return outcomes


def drain_clients(hosts: Sequence[Host], settings: Settings, report: Report | None = None) -> None:
    """Let the agents of these hosts take nothing new, and wait until what they run has ended."""
    with Server.of(settings).queue() as queue:
        _drain(queue, [host.label for host in hosts], report)


def stop_clients(
    hosts: Sequence[Host],
    settings: Settings,
    *,
    drained: bool = False,
    now: bool = False,
    forget: bool = False,
    report: Report | None = None,
) -> Outcomes[Stopped]:
    """Stop the agents of these hosts and remove what is ours there; their tasks go back to the queue.

    ``drained`` says that ``drain_clients`` came before: the next agents there take tasks again. ``now`` kills all at
    once. Long outputs that nobody has collected stay on the client unless ``forget``.
    """
    server = Server.of(settings)
    bundle = project_bundle(server.state)
    labels = [host.label for host in hosts]
    tell = _Counter(len(hosts), report)
    with Unlinker(server) as unlinker:

        def work(connection: HostConnection) -> Stopped:
            label = connection.entry.label
            try:
                landing = ship_agent(connection, run_directory(connection.entry, settings), bundle, make=False)
            except Absent:
                unlinker.remove(label)
                return Stopped("absent")
            folder = {"directory": landing.directory}
            seconds = 0.0 if now else STOP_SECONDS
            stopped = ask(connection, landing, {"verb": "stop", "seconds": seconds, **folder})
            # The link last: an agent needs it to give its tasks back.
            unlinker.remove(label)
            cleaned = ask(connection, landing, {"verb": "clean", "forget": forget, **folder})
            if cleaned["left"]:
                pids = ", ".join(map(str, cleaned["left"]))
                raise HostFailure("error", f"processes that cannot be ended: {pids}")
            return Stopped(stopped["state"], stopped["killed"], cleaned["kept"])

        outcomes = fan_out(hosts, work, settings, lambda _: tell.done())
        for outcome in outcomes.not_ok:
            # It may never come back; nobody should try to reach it for ever.
            unlinker.remove(outcome.host.label)
    # What an agent that was killed could not give back itself; no server, no tasks.
    with contextlib.suppress(RoomfulError), server.queue() as queue:
        for outcome in outcomes.ok:
            queue.dismiss(outcome.host.label)
        if drained:
            queue.drain(labels, resume=True)
    return outcomes


def remove_run_directory(connection: HostConnection, settings: Settings, bundle: Bundle, forget: bool) -> int | None:
    """Remove the folder of an agent that does not run any more; None where there is none.

    Returns how many files with long outputs keep it there, none with ``forget``. Raises HostFailure (``agent-runs``).
    """
    try:
        landing = ship_agent(connection, run_directory(connection.entry, settings), bundle, make=False)
    except Absent:
        return None
    folder = {"directory": landing.directory}
    if ask(connection, landing, {"verb": "status", **folder})["state"] == "running":
        raise HostFailure("agent-runs", "first: inv stop-clients")
    return int(ask(connection, landing, {"verb": "clean", "forget": forget, **folder})["kept"])


def ask(connection: HostConnection, landing: Landing, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to ``roomful.agent.client`` there; raises HostFailure with its reason when it refuses."""
    argv = [landing.python, "-I", "-S", landing.zipapp, "client"]
    done = connection.execute(argv, stdin=json.dumps(request).encode())
    reply = reply_in(done.stdout, done.stderr)
    if "refused" in reply:
        refused = reply["refused"]
        detail = ": ".join(part for part in (refused["where"], refused["what"], refused["why"]) if part)
        raise HostFailure(refused["code"] or "error", detail)
    return dict(reply["ok"])


def _await_registration(queue: Queue, outcomes: Outcomes[Agent], tell: _Counter) -> Outcomes[Agent]:
    """Wait until the queue knows every agent that was started."""
    waiting = {outcome.host.label: outcome for outcome in outcomes.ok}
    found = {outcome.host.label: outcome for outcome in outcomes.not_ok}
    deadline = time.monotonic() + REGISTER_SECONDS
    while waiting and time.monotonic() < deadline:
        for record in queue.clients():
            outcome = waiting.get(record.host)
            if outcome is None or outcome.value is None or record.state not in ("live", "draining"):
                continue
            # The record may be of an earlier agent on that host, gone without a word.
            if record.about.get("pid") != outcome.value.pid:
                continue
            agent = dataclasses.replace(
                outcome.value,
                name=record.agent,
                slots=record.slots,
                cpus=record.cpus,
                memory_bytes=record.memory_bytes,
            )
            found[record.host] = dataclasses.replace(outcome, value=agent)
            del waiting[record.host]
            tell.done()
        if waiting:
            time.sleep(POLL_SECONDS)
    for label, outcome in waiting.items():
        detail = f"the agent has not registered within {REGISTER_SECONDS:g} s"
        found[label] = dataclasses.replace(outcome, status="failed", reason="not-registered", detail=detail)
    return Outcomes(found[outcome.host.label] for outcome in outcomes)


def _with_reasons(
    outcomes: Outcomes[Agent], silent: Sequence[Host], settings: Settings, bundle: Bundle, server: Server
) -> Outcomes[Agent]:
    """Add to the hosts that did not register how their link is and what their agent logged last."""

    def work(connection: HostConnection) -> str:
        landing = ship_agent(connection, run_directory(connection.entry, settings), bundle, make=False)
        reply = ask(connection, landing, {"verb": "status", "directory": landing.directory})
        return str(reply["log"])

    logs = {outcome.host.label: outcome.value or "" for outcome in fan_out(silent, work, settings)}
    links = server.status().links
    told = []
    for outcome in outcomes:
        label = outcome.host.label
        if label in logs and outcome.value is not None:
            link, log = links.get(label, {}), logs[label]
            detail = outcome.detail
            if link.get("state") != "up":
                words = ": ".join(part for part in (link.get("reason"), link.get("detail")) if part)
                detail = f"{detail}; its link is {link.get('state', 'unknown')}: {words}".rstrip(": ")
            elif log:
                detail = f"{detail}; its last words: {log.splitlines()[-1]}"
            outcome = dataclasses.replace(outcome, detail=detail, value=dataclasses.replace(outcome.value, log=log))
        told.append(outcome)
    return Outcomes(told)


def _drain(queue: Queue, labels: Sequence[str], report: Report | None) -> None:
    """Let the agents take nothing new, and wait until what they run has ended."""
    wanted = set(labels)
    queue.drain(labels)
    try:
        while True:
            # Not the clients' own counts: those are as old as their last heartbeat.
            busy = Counter(task.host for task in queue.tasks("running") if task.host in wanted)
            if report:
                report(len(wanted - set(busy)), len(wanted), f"{busy.total()} tasks run")
            if not busy:
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        queue.drain(labels, resume=True)
        raise


class _Counter:
    """Counts hosts that are done, for a progress bar."""

    def __init__(self, total: int, report: Report | None) -> None:
        self._total, self._report = total, report
        self._done = self._failed = 0

    def done(self) -> None:
        self._done += 1
        if self._report:
            self._report(self._done, self._total, f"{self._failed} not ok" if self._failed else "")

    def failed(self) -> None:
        self._failed += 1
        self.done()
