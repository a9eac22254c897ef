"""Examine hosts: what would stop a run there, how fast they are, and what is known of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from invoke import Context

from roomful.errors import InputError

from ._fanout import begin, finish, learn, show_fitted
from ._step import settings_of, step

if TYPE_CHECKING:
    from roomful.diagnosis import Diagnosis
    from roomful.hosts import Host
    from roomful.outcome import Outcome
    from roomful.rank import Speed


@step(help={"output": "host list to write the usable hosts to"})
def doctor(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    output: str = "",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: examine them for everything that would stop a run.

    Name, port, host key, login, the shell's start files, home and disk (written to, with a deadline), python3, rsync,
    memory, load, clock, and who shares a home. A host with a problem is not usable; a warning is only told.

    Example:
        inv doctor --hosts n7
        inv doctor --hosts n7 --output n7_usable --max-failed 100%
    """
    from roomful import progress
    from roomful.access import check_output, write_list
    from roomful.doctor import examine

    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    path = check_output(output, hosts, settings, chosen) if output else None
    with progress.hosts("doctor", len(chosen)) as on_outcome:
        outcomes = examine(chosen, settings, on_outcome)
    learn(settings, "doctor", outcomes, _examined_json)
    if path and outcomes.ok:
        write_list(path, hosts, settings, [outcome.host for outcome in outcomes.ok])
        print(f"{len(outcomes.ok)} usable hosts in {os.path.relpath(path)}", file=sys.stderr)
    elif path:
        print(f"no host is usable: {os.path.relpath(path)} is not written", file=sys.stderr)
    columns = _examined_json if json else _examined
    finish(outcomes, json=json, max_failed=max_failed, columns=columns, again={"output": ""})


def _examined_json(outcome: Outcome[Diagnosis]) -> Mapping[str, Any]:
    assert outcome.value is not None
    return outcome.value.document()


def _examined(outcome: Outcome[Diagnosis]) -> dict[str, Any]:
    assert outcome.value is not None
    facts, shared = outcome.value.facts, outcome.value.shares_home_with
    return {
        **_cells(vars(facts)),
        "clock": str(facts.clock or ""),
        "shares home with": f"{shared[0]}{f' and {len(shared) - 1} more' if shared[1:] else ''}" if shared else "",
        "warnings": "; ".join(finding.detail for finding in outcome.value.warnings),
    }


def _cells(facts: Mapping[str, Any]) -> dict[str, str]:
    """Lay out what is known of a machine; what is not known stays empty."""
    from roomful.report import size

    def cell(key: str, form: Callable[[Any], str]) -> str:
        value = facts.get(key)
        return "" if value is None else form(value)

    return {
        "CPUs": cell("cpus", str),
        "load": cell("load", lambda value: f"{value:.2f}"),
        "free memory": cell("memory_free_bytes", size),
        "free disk": cell("disk_free_bytes", size),
        "python": cell("python", str),
    }


@step(
    help={
        "output": "host list for them, fastest first, with load weights: 1 for the fastest, 2 for half as fast",
        "top": "write only the N fastest",
    }
)
def rank(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    output: str = "",
    top: int = 0,
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: time the same short computation on all of them, fastest first.

    The median of several rounds on one CPU, in wall time, so a busy host is slow; "CPU share" tells how much of a CPU
    it got.

    Example:
        inv rank --hosts n7
        inv rank --hosts n7 --output n7_fastest --top 20
    """
    from roomful import progress
    from roomful.access import check_output
    from roomful.hosts import write_host_list
    from roomful.rank import measure, ranked, weighted

    if top < 0:
        raise InputError(f"bad number {top}", where="--top", fix="write how many hosts to keep")
    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    path = check_output(output, hosts, settings, chosen) if output else None
    with progress.hosts("rank", len(chosen)) as on_outcome:
        outcomes = ranked(measure(chosen, settings, on_outcome))
    weights = {host.label: host.load_weight for host in weighted(outcomes)}
    learn(settings, "rank", outcomes.ok, _speed)
    kept = weighted(outcomes, top)
    if path and kept:
        write_host_list(path, kept)
        print(f"{len(kept)} hosts in {os.path.relpath(path)}, fastest first", file=sys.stderr)

    def columns(outcome: Outcome[Speed]) -> dict[str, Any]:
        speed, weight = outcome.value, weights.get(outcome.host.label)
        if json:
            numbers = (speed.seconds, speed.cpu_seconds) if speed else (None, None)
            return {"load_weight": weight, "round_seconds": numbers[0], "round_cpu_seconds": numbers[1]}
        if speed is None:
            return {"weight": "", "round": "", "CPU share": ""}
        return {"weight": f"{weight:g}", "round": f"{speed.seconds * 1000:.0f} ms", "CPU share": f"{speed.share:.0%}"}

    finish(outcomes, json=json, max_failed=max_failed, columns=columns, again={"output": "", "top": None})


def _speed(outcome: Outcome[Speed]) -> Mapping[str, Any]:
    assert outcome.value is not None
    return {"round_seconds": outcome.value.seconds, "cpu_share": round(outcome.value.share, 3)}


@step(extra="spec", name="hosts", help={"spec": "hosts, written as for --hosts; default: setting hosts"})
def known_hosts(c: Context, spec: str = "", exclude: str = "", json: bool = False) -> None:
    """Hosts: show what is known of each, and how old that is; asks no host anything.

    doctor, rank and filter leave here what they found out.

    Example:
        inv hosts n7
        inv hosts n7 --json
    """
    import time

    from roomful.hosts import resolve
    from roomful.inventory import Inventory

    settings = settings_of(c)
    chosen = resolve(spec, settings, exclude)
    known = Inventory(settings).of(host.label for host in chosen)
    now = time.time()
    for sources in known.values():
        for facts in sources.values():
            facts["age_seconds"] = round(max(0.0, now - facts["at"]), 1)
    if json:
        from roomful.report import to_json

        print(to_json({"hosts": [{"host": host.label, **known[host.label]} for host in chosen]}))
        return
    rows = [_known_cells(host, known[host.label]) for host in chosen]
    show_fitted([list(row.values()) for row in rows], list(rows[0]))


def _known_cells(host: Host, sources: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    from roomful.report import duration

    latest = max(sources.values(), key=lambda facts: facts["at"], default={})
    doctor, speed = sources.get("doctor", {}), sources.get("rank", {})
    state = str(latest.get("status", "never examined"))
    return {
        "host": host.label,
        "state": f"{state}, {latest['reason']}" if latest.get("reason") else state,
        "age": duration(latest["age_seconds"]) if latest else "",
        **_cells(doctor),
        "round": f"{speed['round_seconds'] * 1000:.0f} ms" if speed else "",
        "weight": f"{host.load_weight:g}",
        "shares home with": ", ".join(doctor.get("shares_home_with", [])[:2]),
    }
