"""What became of a run: each job with its machine, the merged report, and the word that goes out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from roomful.benchexec.campaign import Campaign
from roomful.benchexec.follow import JobEnd
from roomful.benchexec.harvest import JOBS
from roomful.benchexec.judge import Finding, judge
from roomful.benchexec.plan import Plan
from roomful.benchexec.stage import FILES
from roomful.benchexec.table import make_table
from roomful.hosts import write_text_atomically
from roomful.notify import Message
from roomful.report import duration

#: Lines on failed jobs in a message.
MOST_LINES = 20


@dataclass(frozen=True)
class Summary:
    """A run at its end."""

    HEADERS: ClassVar = ("job", "state", "host", "attempt", "seconds", "runs", "detail")

    name: str
    folder: Path
    ends: tuple[JobEnd, ...]
    findings: tuple[Finding, ...]
    #: The merged report's files; none where nothing is there to merge.
    reports: tuple[Path, ...]
    #: How long it was worked on, up to its end.
    seconds: float = 0.0

    @property
    def missing(self) -> list[Finding]:
        """The results that are not here, whole."""
        return [one for one in self.findings if one.file is None]

    @property
    def failed(self) -> list[JobEnd]:
        """The jobs without all their results."""
        return [end for end in self.ends if end.why]

    def rows(self) -> list[list[Any]]:
        """Return a row a job."""
        return [
            [
                end.job.id,
                "missing" if end.why else "ok",
                end.host,
                end.attempt or "",
                round(end.seconds, 1) if end.seconds else "",
                sum(end.counts.values()),
                end.why or ", ".join(f"{count} {status}" for status, count in sorted(end.counts.items())),
            ]
            for end in self.ends
        ]

    def document(self) -> dict[str, Any]:
        """Return what ``inv bench.run --json`` prints."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "reports": [str(path) for path in self.reports],
            "missing": len(self.missing),
            "jobs": [dict(zip(self.HEADERS, row, strict=True)) for row in self.rows()],
        }


def summarise(plan: Plan, campaign: Campaign, ends: Mapping[str, JobEnd], root: Path, program: str) -> Summary:
    """Judge all that is here, merge it with ``program`` (table-generator), and write down which job ran where.

    ``root`` is the folder of the benchmark's files: results name them by where they were on the worker, and a link
    puts them there for who reads the report.
    Raises RoomfulError where the report cannot be made.
    """
    _link_files(campaign.folder, root)
    findings = tuple(judge(plan, campaign.folder / JOBS))
    reports: tuple[Path, ...] = ()
    if any(one.file for one in findings):
        reports = make_table(findings, plan.definition.name, campaign.folder, program)
    all_ends = tuple(ends.get(job.id) or JobEnd(job, "", 0, 0.0, {}, "it never ran") for job in plan.jobs)
    summary = Summary(campaign.name, campaign.folder, all_ends, findings, reports)
    rows: Sequence[Sequence[Any]] = [Summary.HEADERS, *summary.rows()]
    text = "".join("\t".join(str(cell).replace("\t", " ") for cell in row) + "\n" for row in rows)
    write_text_atomically(campaign.folder / "jobs.tsv", text)
    return summary


def _link_files(folder: Path, root: Path) -> None:
    link = folder / FILES
    # The report is complete without it.
    with contextlib.suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(root)


def each_message(end: JobEnd, name: str, place: str) -> Message:
    """Return the word on one job that has ended."""
    pairs = ", ".join(f"{run} with {tasks}" if run else tasks for run, tasks in end.job.pairs)
    return Message(f"{name}: {end.sentence}", f"job {end.job.id} ({pairs}), attempt {end.attempt}\nrun in {place}")


def all_message(summary: Summary, place: str) -> Message:
    """Return the word on the whole run: what ran, where, how long, what failed, where the results are."""
    finished = len(summary.ends) - len(summary.failed)
    what = f"{finished} of {len(summary.ends)} jobs finished in {duration(summary.seconds)}"
    lines = [f"run in {place}"]
    hosts: dict[str, list[str]] = {}
    for end in summary.ends:
        if not end.why:
            hosts.setdefault(end.host, []).append(f"{end.job.id} ({duration(end.seconds)})")
    lines += [f"{host}: {', '.join(jobs)}" for host, jobs in sorted(hosts.items())]
    lines += [end.sentence for end in summary.failed[:MOST_LINES]]
    lines += [f"results: {summary.folder}", *map(str, summary.reports)]
    return Message(f"{summary.name}: {what}", "\n".join(lines))
