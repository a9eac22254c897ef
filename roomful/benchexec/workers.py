"""The machines of a benchmark run: which of them can measure, which must wait, and why."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from roomful.benchexec.stage import start_line
from roomful.client_links import run_directory
from roomful.clients import ask, start_clients
from roomful.deploy import Deployment, deploy
from roomful.doctor import probe_source
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.shipping import project_bundle, reply_in, ship_agent
from roomful.ssh import HostConnection, fan_out
from roomful.state import ProjectState

#: ``ready``: an agent takes jobs there; ``locked``: somebody else has the machine; ``away``: not reached, or it
#: stopped answering; ``rejected``: it cannot measure, and gets no job.
State = Literal["looked", "ready", "locked", "away", "rejected"]
#: BenchExec's first version of Python.
OLDEST_PYTHON = (3, 10)
PROBE_SECONDS = 20.0
#: Said of a machine that has no memory cgroup for us.
UNMEASURED = "memory is not measured there: no cgroup for it"
#: Unpacking a large tool takes its time.
PREPARE_SECONDS = 1800.0


@dataclass(frozen=True)
class Worker:
    """A machine as it was seen last."""

    host: Host
    state: State
    why: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    cpu_model: str = ""
    python: str = ""
    #: BenchExec's version there.
    version: str = ""


@dataclass(frozen=True)
class Preparation:
    """What every worker gets."""

    deployment: Deployment
    #: The tool's archive in the workdir; empty: none.
    tool: str
    runexec_options: tuple[str, ...]


def look(hosts: Sequence[Host], settings: Settings) -> list[Worker]:
    """Ask each host what it is and who has locked it; nothing is measured or copied there but our agent."""
    bundle = project_bundle(ProjectState(settings))

    def work(connection: HostConnection) -> Worker:
        landing = ship_agent(connection, run_directory(connection.entry, settings), bundle)
        facts = _facts(connection)
        holder = str(ask(connection, landing, {"verb": "holder", "path": settings.host_lock})["holder"])
        worker = Worker(
            connection.entry,
            "locked" if holder else "looked",
            holder,
            int(facts["cpus"]),
            int(facts["memory_bytes"]),
            str(facts["cpu_model"]),
            str(facts["python"]),
        )
        if tuple(int(part) for part in worker.python.split(".")[:2]) < OLDEST_PYTHON:
            needed = ".".join(map(str, OLDEST_PYTHON))
            return dataclasses.replace(worker, state="rejected", why=f"python3 is {worker.python}, not >= {needed}")
        return worker

    return [outcome.value or _not_reached(outcome) for outcome in _all_of(fan_out(hosts, work, settings))]


def _facts(connection: HostConnection) -> Mapping[str, Any]:
    done = connection.python(probe_source(), timeout=PROBE_SECONDS)
    try:
        facts = json.loads(done.stdout.rpartition(b"roomful-probe ")[2])
        return {name: facts[name] for name in ("cpus", "memory_bytes", "cpu_model", "python")}
    except (ValueError, KeyError, TypeError) as error:
        raise HostFailure("protocol", f"the probe answers nothing sensible: {error}") from None


def refuse_mixed(workers: Iterable[Worker]) -> None:
    """Refuse machines whose times do not compare; raises InputError with who has which CPU."""
    models: dict[str, list[str]] = {}
    for worker in workers:
        if worker.cpu_model and worker.state != "rejected":
            models.setdefault(worker.cpu_model, []).append(worker.host.label)
    if len(models) > 1:
        why = "; ".join(f"{', '.join(labels)}: {model}" for model, labels in models.items())
        fix = "leave some out with --exclude, or accept that with --mixed-hardware"
        raise InputError("these hosts have different CPUs, so that times do not compare", why=why, fix=fix)


def prepare(
    workers: Sequence[Worker], settings: Settings, preparation: Preparation, tell: Callable[[str], None]
) -> list[Worker]:
    """Ship everything, try a measurement on each, and start an agent with one slot where that went well."""
    if not workers:
        return []
    seen = {worker.host: worker for worker in workers}
    shipped = deploy(list(seen), settings, preparation.deployment, None, tell)
    _take(seen, shipped)
    request = json.dumps(
        {"tool": preparation.tool, "options": preparation.runexec_options, "lock": settings.host_lock}
    )

    def work(connection: HostConnection) -> dict[str, Any]:
        line = f"cd {_home_path(settings.workdir)} && exec {start_line('bench_prepare', request)}"
        done = connection.execute(["sh", "-c", line], timeout=PREPARE_SECONDS, check=False)
        return reply_in(done.stdout, done.stderr)

    tried: Outcomes[dict[str, Any]] = fan_out([outcome.host for outcome in shipped.ok], work, settings)
    _take(seen, tried)
    for outcome in tried.ok:
        reply = outcome.value or {}
        if "locked" in reply:
            # Since it was looked at.
            seen[outcome.host] = dataclasses.replace(seen[outcome.host], state="locked", why=str(reply["locked"]))
        elif "refused" in reply:
            seen[outcome.host] = dataclasses.replace(
                seen[outcome.host], state="rejected", why=f"cannot measure: {reply['refused']}"
            )
        else:
            about = reply["ok"]
            note = "" if about["memory"] else UNMEASURED
            seen[outcome.host] = dataclasses.replace(seen[outcome.host], version=str(about["version"]), why=note)
    fit = [host for host in seen if seen[host].version]
    if fit:
        # The machine is ours alone, and what is measured is not to differ from what the user measures by hand.
        started = start_clients(fit, settings, slots=1, live={"nice": 0})
        _take(seen, started)
        for agent in started.ok:
            seen[agent.host] = dataclasses.replace(seen[agent.host], state="ready")
    return list(seen.values())


def _take(seen: dict[Host, Worker], outcomes: Iterable[Outcome[Any]]) -> None:
    """Note what went wrong on which host; raises KeyboardInterrupt."""
    for outcome in _all_of(outcomes):
        if outcome.status != "ok":
            lost = _not_reached(outcome)
            seen[outcome.host] = dataclasses.replace(seen[outcome.host], state=lost.state, why=lost.why)


def _all_of(outcomes: Iterable[Outcome[Any]]) -> list[Outcome[Any]]:
    """Raise KeyboardInterrupt where that ended the work on a host: it says nothing about the host."""
    found = list(outcomes)
    if any(outcome.reason == "interrupted" for outcome in found):
        raise KeyboardInterrupt
    return found


def _not_reached(outcome: Outcome[Any]) -> Worker:
    """Tell a host that may come back from one that will not do."""
    why = ": ".join(part for part in (outcome.reason, outcome.detail) if part)
    passing = outcome.status == "unreachable" or outcome.reason in ("lost", "command-timeout", "not-registered")
    hopeless = outcome.reason in ("auth", "host-key", "dns")
    return Worker(outcome.host, "away" if passing and not hopeless else "rejected", why)


def _home_path(workdir: str) -> str:
    """Quote a folder for the shell; ``~`` is the home."""
    return f'"$HOME"/{shlex.quote(workdir[2:])}' if workdir.startswith("~/") else shlex.quote(workdir)
