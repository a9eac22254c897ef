"""How a run went, in rows, counts and sentences. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roomful.experiments.loader import Loaded
from roomful.experiments.plan import Plan
from roomful.experiments.results import Result
from roomful.notify import Message
from roomful.report import duration

STATUSES = ("ok", "failed", "interrupted", "skipped", "not run")
COLUMNS = ("file", "experiment", "status", "restarts", "seconds", "detail")
#: Failures that a notification names.
MOST_NAMED = 20


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row for each experiment."""
    return [
        {
            "file": result.experiment.registration.group,
            "experiment": result.experiment.name,
            "status": result.status,
            "restarts": result.restarts,
            "seconds": round(result.seconds, 2),
            "detail": result.detail,
        }
        for result in results
    ]


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Count the experiments by status."""
    found = Counter[str](result.status for result in results)
    return {status: found[status] for status in STATUSES}


def document(results: Sequence[Result], loaded: Loaded, folder: Path) -> dict[str, Any]:
    """Return all of it as one JSON document."""
    broken = [{"file": str(file), "error": why} for file, why in loaded.broken]
    return {**counts(results), "results": str(folder), "broken": broken, "experiments": rows(results)}


def recap(results: Sequence[Result], loaded: Loaded, folder: Path) -> list[str]:
    """Say how it went in a few lines."""
    parts = ", ".join(f"{number} {status}" for status, number in counts(results).items() if number or status == "ok")
    lines = [f"{count_of(len(results))}: {parts}"]
    lines += [f"not loaded: {why}" for _, why in loaded.broken]
    return [*lines, f"results: {folder}"]


def count_of(number: int) -> str:
    """Write a number of experiments."""
    return f"{number} {'experiment' if number == 1 else 'experiments'}"


def message(results: Sequence[Result], loaded: Loaded, folder: Path, host: str) -> Message:
    """Say how it went to people who are elsewhere; ``host`` is this machine."""
    first, *rest = recap(results, loaded, folder)
    failed = [f"{result.experiment.name}: {result.detail}" for result in results if result.status == "failed"]
    more = [f"... and {len(failed) - MOST_NAMED} more"] if len(failed) > MOST_NAMED else []
    seconds = duration(sum(result.seconds for result in results))
    return Message(f"{first} in {seconds} on {host}", "\n".join([*failed[:MOST_NAMED], *more, *rest]))


def succeeded(results: Sequence[Result], loaded: Loaded) -> bool:
    """Tell whether everything was loaded and did what it should."""
    return not loaded.broken and all(result.status in ("ok", "skipped") for result in results)


def plan_rows(plan: Plan, finished: Sequence[bool]) -> list[dict[str, Any]]:
    """Return one row for each experiment that would run, and whether it is ``finished`` already."""
    return [
        {
            "file": experiment.registration.group,
            "name": experiment.name,
            "servers": ",".join(server.id for server in experiment.servers),
            "state": "finished" if done else "to run",
        }
        for experiment, done in zip(plan.experiments, finished, strict=True)
    ]
