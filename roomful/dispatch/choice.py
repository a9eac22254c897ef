"""Which host is next: a score for each, and the lowest wins. Pure functions; the evaluation can be replaced."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from roomful.errors import InputError

from .load import HostLoad

#: Evaluates a host: any number, the lowest is chosen; infinity: never.
Score = Callable[[HostLoad], float]

#: So much free memory, times the memory weight, counts as one more process for each CPU does.
MEMORY_UNIT = 256 * 2**20
#: Most reasons that are told in one line.
MOST_REASONS = 4


def default_score(host: HostLoad) -> float:
    """Return the load that each CPU would have with one more command, weighted, and a penalty for little free memory.

    ``load_weight * (load + virtual load + 1) / CPUs + 256 MiB / (memory_weight * free memory)``. As in dsh a load
    weight of 2 means half as fast, and a higher memory weight means better memory.
    """
    if host.report is None:
        return math.inf
    busy = host.host.load_weight * (host.load + 1.0) / host.report.cpus
    return busy + MEMORY_UNIT / max(1.0, host.host.memory_weight * host.report.memory_free)


@dataclass(frozen=True)
class Limits:
    """What one command asks for: no host with more load a CPU than ``max_load``, none of ``avoid``, only ``on``.

    ``chosen``: ``on`` was chosen already, for the command that this one works for; only its connection counts now.
    """

    max_load: float = math.inf
    avoid: frozenset[str] = frozenset()
    on: str = ""
    chosen: bool = False


def choose(hosts: Iterable[HostLoad], score: Score, limits: Limits) -> HostLoad | None:
    """Return the best host that can be used within the limits, None where there is none."""
    best: tuple[float, int] | None = None
    chosen = None
    for host in hosts:
        if refusal(host, limits):
            continue
        # Equal to 9 digits is equal: memory that differs by a page must not decide.
        value = 0.0 if limits.chosen else round(float(score(host)), 9)
        if math.isnan(value) or value == math.inf:
            continue
        rank = (value, host.turn)
        if best is None or rank < best:
            best, chosen = rank, host
    return chosen


def refusal(host: HostLoad, limits: Limits) -> str:
    """Say why a host cannot be chosen; empty where it can."""
    if limits.on and host.host.label != limits.on and host.host.name != limits.on:
        return "not the one that was asked for"
    if host.unusable:
        return host.unusable
    if not (host.fresh or limits.chosen):
        return "no report of its load" if host.report is None else f"no report of its load for {host.age:.1f} s"
    if host.host.label in limits.avoid:
        return "tried already"
    if _too_busy(host, limits):
        return f"load {host.load_per_cpu:.2f} a CPU is above {limits.max_load:g}"
    return ""


def _too_busy(host: HostLoad, limits: Limits) -> bool:
    return not limits.on and host.load_per_cpu > limits.max_load


def why_none(hosts: Sequence[HostLoad], limits: Limits) -> str:
    """Say in one line why no host can be chosen."""
    reasons: dict[str, list[str]] = {}
    asked = [host for host in hosts if not limits.on or limits.on in (host.host.label, host.host.name)]
    willing = [host for host in asked if not refusal(host, Limits(avoid=limits.avoid, on=limits.on))]
    busy = [host for host in willing if _too_busy(host, limits)]
    for host in asked:
        reason = _summary(busy, limits) if host in busy else refusal(host, limits)
        reasons.setdefault(reason or "not chosen by the evaluation", []).append(host.host.label)
    if not reasons:
        return f"{limits.on} is none of the dispatcher's hosts, which are {few([host.host.label for host in hosts])}"
    parts = [f"{few(labels)}: {reason}" for reason, labels in reasons.items()]
    more = sum(map(len, list(reasons.values())[MOST_REASONS:]))
    return "; ".join([*parts[:MOST_REASONS], *([f"and {more} more; see inv load"] if more else [])])


def _summary(busy: Sequence[HostLoad], limits: Limits) -> str:
    """Say of all hosts beyond the limit at once how busy they are: each has a number of its own."""
    loads = sorted({f"{host.load_per_cpu:.2f}" for host in busy}, key=float)
    return f"load {' to '.join(dict.fromkeys([loads[0], loads[-1]]))} a CPU is above {limits.max_load:g}"


def few(labels: Sequence[str]) -> str:
    """Name at most three hosts, and say how many more there are."""
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return f"{', '.join(labels[:3])}{more}"


def load_score(name: str) -> Score:
    """Return the evaluation function ``module:function``; the default one for an empty name.

    Raises InputError.
    """
    if not name:
        return default_score
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        fix = "write module:function, such as cluster_rules:score"
        raise InputError(f"no evaluation function {name!r}", where="--score", why=str(error), fix=fix) from error
    if not callable(found):
        raise InputError(f"{name} cannot be called", where="--score", fix="name a function that takes a HostLoad")
    return found  # type: ignore[no-any-return]
