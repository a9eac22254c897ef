"""The agents on the clients: start them, stop them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from invoke import Context

from ._fanout import begin, finish, turn
from ._step import step

if TYPE_CHECKING:
    from roomful.outcome import Outcome

#: What is changed on the hosts, for others of this project: no folder has such a name.
AGENTS = "/agents"


@step(
    help={
        "slots": "most tasks at a time on each host; default: as many as it has CPUs",
        "nice": "niceness of tasks on these hosts, 0 to 19; default: 10",
        "max_load": "no task starts on these hosts while others load them by more than this",
        "while_idle": "on: these hosts' tasks stand still while someone else is at the console; off: they run",
        "restart": "restart agents that run already, as after an upgrade; their tasks go back to the queue",
    }
)
def start_clients(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    slots: int = 0,
    nice: str = "",
    max_load: str = "",
    while_idle: str = "",
    restart: bool = False,
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Cluster: start an agent on every host, which takes tasks from the queue and runs them.

    Needs the server (inv start-server). Waits until each agent has registered. A host where one runs is left alone.
    What --nice, --max-load and --while-idle say stays with these hosts; inv clients-config changes it, also later.

    Example:
        inv start-clients --hosts n7
        inv start-clients --hosts node[01-20] --slots 4
        inv start-clients --hosts n7 --restart
        inv start-clients --hosts offices --while-idle on --max-load 1
    """
    from roomful import clients, progress
    from roomful.clients_config import parse_changes
    from roomful.errors import InputError

    given = {"nice": nice, "max_load": max_load, "while_idle": while_idle}
    live = parse_changes(f"{name}={value}" for name, value in given.items() if value)
    if slots < 0:
        raise InputError(f"bad number of slots {slots}", where="--slots", fix="write a number above 0")
    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    with turn(AGENTS, chosen, settings), progress.bar("start-clients", len(chosen), "hosts") as report:
        outcomes = clients.start_clients(chosen, settings, slots=slots, live=live, restart=restart, report=report)
    for outcome in outcomes.not_ok:
        if outcome.value and outcome.value.log:
            print(f"--- {outcome.host.label}: the end of its agent's log", file=sys.stderr)
            print("\n".join(outcome.value.log.splitlines()[-8:]), file=sys.stderr)
    if any(outcome.value and (outcome.value.outdated or outcome.value.changed) for outcome in outcomes.ok):
        note = "some agents run older code or other settings than asked for; to change that: add --restart"
        print(note, file=sys.stderr)
    finish(outcomes, json=json, max_failed=max_failed, columns=_agent_columns)


@step(
    help={
        "drain": "first wait until the tasks that run have ended",
        "now": "kill agents and tasks at once",
        "forget": "remove long outputs that nobody has collected, too",
    }
)
def stop_clients(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    drain: bool = False,
    now: bool = False,
    forget: bool = False,
    json: bool = False,
    max_failed: str = "0",
) -> None:
    """Cluster: stop the agents and remove what is ours on the hosts; tasks that run go back to the queue.

    Example:
        inv stop-clients --hosts n7
        inv stop-clients --hosts n7 --drain
        inv stop-clients --hosts node07 --now
    """
    from roomful import clients, progress
    from roomful.errors import InputError

    if drain and now:
        raise InputError("--drain and --now exclude each other")
    settings, chosen = begin(c, hosts, exclude, max_failed)
    with progress.bar("stop-clients", len(chosen), "hosts") as report:
        if drain:
            clients.drain_clients(chosen, settings, report)
        with turn(AGENTS, chosen, settings):
            outcomes = clients.stop_clients(chosen, settings, drained=drain, now=now, forget=forget, report=report)
    kept = sum(outcome.value.kept for outcome in outcomes.ok if outcome.value)
    if kept:
        fix = "inv collect brings them; inv stop-clients --forget removes them"
        print(f"{kept} files with long outputs stay on the hosts ({fix})", file=sys.stderr)
    finish(outcomes, json=json, max_failed=max_failed, columns=_stopped_columns)


def _agent_columns(outcome: Outcome[Any]) -> Mapping[str, Any]:
    from roomful.report import size

    agent = outcome.value
    if agent is None or not agent.name:
        return {"agent": agent.state if agent else ""}
    state = f"{agent.state} (older code)" if agent.outdated else agent.state
    return {"agent": state, "name": agent.name, "slots": agent.slots, "memory": size(agent.memory_bytes)}


def _stopped_columns(outcome: Outcome[Any]) -> Mapping[str, Any]:
    stopped = outcome.value
    if stopped is None:
        return {"agent": ""}
    return {"agent": stopped.state, **({"files kept": stopped.kept} if stopped.kept else {})}
