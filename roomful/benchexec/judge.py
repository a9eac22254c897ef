"""Which results of a plan are there, whole (see ``roomful.remote.bench_result``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from roomful.benchexec.plan import Plan
from roomful.remote.bench_result import ResultFile, by_result, read_result

__all__ = ["Finding", "ResultFile", "judge", "read_result"]


@dataclass(frozen=True)
class Finding:
    """What was found of one result of a job: the file that counts, or why none does."""

    job: str
    run_definition: str
    task_set: str
    file: ResultFile | None
    why: str = ""
    #: Files of earlier or failed attempts.
    others: tuple[Path, ...] = field(default=())


def runs_in(findings: Iterable[Finding]) -> list[str]:
    """Return which runs' results count: what stands before the time in the files' names, ``def.nightly``."""
    names = (one.file.path.name for one in findings if one.file)
    return sorted({re.split(r"\.\d{4}-\d\d-\d\d_", name)[0] for name in names})


def judge(plan: Plan, folder: Path) -> list[Finding]:
    """Look for every result of a plan in a folder and those below it.

    Where a result is there several times, the newest that is whole counts.
    """
    files = by_result(folder.rglob("*.xml*"), plan.definition.name)
    findings = []
    for job in plan.jobs:
        for (run_definition, task_set), result in zip(job.pairs, job.results, strict=True):
            judged = [read_result(path) for path in files.get(result, [])]
            whole = next((one for one in judged if not one.fault), None)
            others = tuple(one.path for one in judged if one is not whole)
            why = "" if whole else judged[0].fault if judged else "no result file"
            findings.append(Finding(job.id, run_definition, task_set, whole, why, others))
    return findings
