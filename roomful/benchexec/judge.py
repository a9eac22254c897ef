"""Which results of a plan are there, whole.

BenchExec's exit code proves nothing: it is 0 after an interrupt, and after a task set that it does not know. So a
result counts only if its file is there, can be read to its end, has no ``error`` and a status on every run.
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from roomful.benchexec.plan import Plan

_OPENERS = {".bz2": bz2.open, ".gz": gzip.open}


@dataclass(frozen=True)
class ResultFile:
    """What one of BenchExec's result files holds; ``fault`` is why it does not count, empty where it does."""

    path: Path
    fault: str = ""
    #: What the machine calls itself, and the model of its CPU.
    host: str = ""
    cpu: str = ""
    #: Each run's name and status, in order.
    statuses: tuple[tuple[str, str], ...] = ()
    #: What table-generator knows each run by: its name, properties and expected verdict.
    tasks: tuple[tuple[str, ...], ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """How many runs ended with each status."""
        return Counter(status for _, status in self.statuses)


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


def judge(plan: Plan, folder: Path) -> list[Finding]:
    """Look for every result of a plan in a folder and those below it.

    Where a result is there several times, the newest that is whole counts.
    """
    files = _by_result(folder.rglob("*.xml*"), plan.definition.name)
    findings = []
    for job in plan.jobs:
        for (run_definition, task_set), result in zip(job.pairs, job.results, strict=True):
            judged = [read_result(path) for path in files.get(result, [])]
            whole = next((one for one in judged if not one.fault), None)
            others = tuple(one.path for one in judged if one is not whole)
            why = "" if whole else judged[0].fault if judged else "no result file"
            findings.append(Finding(job.id, run_definition, task_set, whole, why, others))
    return findings


def read_result(path: Path) -> ResultFile:
    """Read a result file and say whether it counts."""
    try:
        root = ElementTree.fromstring(_content(path))
    except OSError as error:
        return ResultFile(path, f"cannot be read: {error.strerror or error}")
    except (EOFError, zlib.error, ElementTree.ParseError) as error:
        return ResultFile(path, f"is cut off: {error}")
    host = (element.get("hostname", "") if (element := root.find("systeminfo")) is not None else "").strip()
    cpu = (element.get("model", "") if (element := root.find("systeminfo/cpu")) is not None else "").strip()
    statuses = tuple((run.get("name", ""), _status(run)) for run in root.findall("run"))
    known_by = ("name", "properties", "expectedVerdict")
    tasks = tuple(tuple(run.get(name, "") for name in known_by) for run in root.findall("run"))
    return ResultFile(path, _fault(root, statuses), host, cpu, statuses, tasks)


def _content(path: Path) -> bytes:
    if path.suffix == ".bz2":
        with bz2.open(path) as file:
            return file.read()
    if path.suffix == ".gz":
        with gzip.open(path) as packed:
            return packed.read()
    return path.read_bytes()


def _fault(root: ElementTree.Element, statuses: tuple[tuple[str, str], ...]) -> str:
    if root.tag != "result":
        return f"is no result file: its root is <{root.tag}>"
    if error := root.get("error"):
        return f"BenchExec marked it: {error}"
    if not statuses:
        return "has no runs"
    without = [name for name, status in statuses if not status]
    if without:
        return f"{len(without)} of {len(statuses)} runs have no status, such as {without[0]}"
    return ""


def _status(run: ElementTree.Element) -> str:
    column = next((one for one in run.findall("column") if one.get("title") == "status"), None)
    return column.get("value", "") if column is not None else ""


def _by_result(paths: Iterable[Path], name: str) -> dict[str, list[Path]]:
    """Sort result files by what stands between ``.results.`` and ``.xml``, the newest first."""
    pattern = re.compile(
        rf"{re.escape(name)}(?:\..+?)?\.(\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d)\.results\.(.+)\.xml(?:\.bz2|\.gz)?"
    )
    dated: dict[str, list[tuple[str, Path]]] = {}
    for path in paths:
        if match := pattern.fullmatch(path.name):
            dated.setdefault(match[2], []).append((match[1], path))
    return {result: [path for _, path in sorted(found, reverse=True)] for result, found in dated.items()}
