"""BenchExec's result files, and which of them count. Runs on workers too: any Python 3.8 or newer.

BenchExec's exit code proves nothing: it is 0 after an interrupt, and after a task set that it does not know. So a
result counts only if its file is there, can be read to its end, has no ``error`` and a status on every run.
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping
from xml.etree import ElementTree


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


def read_result(path: Path) -> ResultFile:
    """Read a result file and say whether it counts."""
    try:
        root = ElementTree.fromstring(_content(path))
    except OSError as error:
        return ResultFile(path, f"cannot be read: {error.strerror or error}")
    except (EOFError, zlib.error, ElementTree.ParseError) as error:
        return ResultFile(path, f"is cut off: {error}")
    except (LookupError, ValueError) as error:
        return ResultFile(path, f"is no XML: {error}")
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


def by_result(paths: Iterable[Path], name: str) -> dict[str, list[Path]]:
    """Sort result files by what stands between ``.results.`` and ``.xml``, the newest first."""
    pattern = re.compile(
        rf"{re.escape(name)}(?:\..+?)?\.(\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d)\.results\.(.+)\.xml(?:\.bz2|\.gz)?"
    )
    dated: dict[str, list[tuple[str, Path]]] = {}
    for path in paths:
        if match := pattern.fullmatch(path.name):
            dated.setdefault(match[2], []).append((match[1], path))
    return {result: [path for _, path in sorted(found, reverse=True)] for result, found in dated.items()}
