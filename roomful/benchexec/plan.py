"""The jobs that a benchmark definition is split into: each is one call of BenchExec, on one machine."""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from roomful.benchexec.definition import Definition, result_name
from roomful.errors import InputError

#: How a definition is split: a job a task set (with all run definitions), a job a run definition (with all its task
#: sets), or a job for each pair of them.
SPLITS = ("taskset", "rundefinition", "both")


@dataclass(frozen=True)
class Job:
    """A part of a definition; ``id`` is a folder's name, unique in the plan and the same at every planning."""

    id: str
    run_definitions: tuple[str, ...]
    task_sets: tuple[str, ...]
    #: How many runs BenchExec makes, before it filters by property.
    runs: int
    #: What stands between ``.results.`` and ``.xml`` in the names of the files that must be there afterwards.
    results: tuple[str, ...]
    #: The run definition and the task set of each of these.
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def selection(self) -> list[str]:
        """BenchExec's arguments that select this job's part and no more.

        ``-r`` and ``-t`` take shell patterns, and a name may hold what is special in them, or begin with a dash.
        """
        chosen = [f"--rundefinition={glob.escape(name)}" for name in self.run_definitions if name]
        return [*chosen, *(f"--tasks={glob.escape(name)}" for name in self.task_sets)]

    def arguments(self, definition: str, options: Iterable[str] = ()) -> list[str]:
        """Return the whole command line of the job; ``definition`` is the file's path where it runs."""
        # Before our own: of an option that is given twice, the last one counts.
        own = ["--results-per-taskset", *self.selection]
        # It would take a word with an @ in front for a file of arguments.
        path = f"./{definition}" if definition.startswith("@") else definition
        return ["benchexec", *options, *own, "--", path]


@dataclass(frozen=True)
class Plan:
    """All jobs of a definition, in its order."""

    definition: Definition
    split: str
    jobs: tuple[Job, ...]

    @property
    def runs(self) -> int:
        """How many runs there are in all."""
        return sum(job.runs for job in self.jobs)


def make_plan(definition: Definition, split: str = "taskset") -> Plan:
    """Split a definition into jobs that together make each run once; raises InputError for a bad ``split``."""
    if split not in SPLITS:
        raise InputError(f"bad --split {split!r}", fix=f"use one of {', '.join(SPLITS)}")
    groups: dict[tuple[str, ...], list[tuple[str, str, int]]] = {}
    for run_definition in definition.run_definitions:
        for tasks in run_definition.task_sets:
            pair = (run_definition.name, tasks.name)
            key = {"taskset": pair[1:], "rundefinition": pair[:1], "both": pair}[split]
            groups.setdefault(key, []).append((*pair, tasks.tasks))
    ids = _ids(groups)
    return Plan(definition, split, tuple(_job(ids[key], pairs) for key, pairs in groups.items()))


def document(plan: Plan) -> dict[str, Any]:
    """Return what ``inv bench.plan --json`` prints."""
    jobs = [
        {
            "id": job.id,
            "run_definitions": job.run_definitions,
            "task_sets": job.task_sets,
            "runs": job.runs,
            "results": job.results,
        }
        for job in plan.jobs
    ]
    return {"definition": str(plan.definition.path), "tool": plan.definition.tool, "runs": plan.runs, "jobs": jobs}


def task_line(job: Job, definition: str, options: Iterable[str] = ()) -> str:
    """Return a job as a JSON line of a task file."""
    # BenchExec names its files by the second, and gives up where another job has begun in the same one.
    argv = job.arguments(definition, [f"--outputpath=results/{job.id}/", *options])
    return json.dumps({"command": shlex.join(argv), "name": job.id, "tags": ["bench"]})


def _job(job_id: str, pairs: list[tuple[str, str, int]]) -> Job:
    return Job(
        job_id,
        tuple(dict.fromkeys(run_definition for run_definition, _, _ in pairs)),
        tuple(dict.fromkeys(tasks for _, tasks, _ in pairs)),
        sum(count for _, _, count in pairs),
        tuple(result_name(run_definition, tasks) for run_definition, tasks, _ in pairs),
        tuple((run_definition, tasks) for run_definition, tasks, _ in pairs),
    )


def _ids(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Make a folder's name of each key; where two would be the same, also on a disk that ignores case, count."""
    found: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for key in keys:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", ".".join(filter(None, key))).lstrip(".-") or "all"
        job_id, number = name, 1
        while job_id.lower() in taken:
            number += 1
            job_id = f"{name}-{number}"
        taken.add(job_id.lower())
        found[key] = job_id
    return found
