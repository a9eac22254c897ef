"""What a run leaves behind: one folder with a table of all rows, and where everything comes from."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roomful.errors import RoomfulError
from roomful.experiments.provenance import Provenance, now
from roomful.experiments.registry import Experiment
from roomful.hosts import write_text_atomically

VERSION = 1
#: The table is written again at most so often while the run goes on, in seconds.
WRITE_SECONDS = 5.0

Status = Literal["ok", "failed", "interrupted", "skipped", "not run"]


@dataclass(frozen=True)
class Result:
    """How one experiment ended. ``skipped``: finished in an earlier run; ``not run``: another one failed before."""

    experiment: Experiment
    status: Status
    detail: str = ""
    seconds: float = 0.0
    restarts: int = 0
    began: str = ""
    ended: str = ""


class Results:
    """The folder of one run."""

    def __init__(self, parent: Path, provenance: Provenance) -> None:
        """Make a folder of its own below ``parent``, named by the run."""
        self.folder = _new_folder(parent, provenance.run)
        # Two runs may begin in the same second: each keeps its own entry beside the files that both write to.
        self.provenance = dataclasses.replace(provenance, run=self.folder.name)
        self.rows: list[dict[str, str]] = []
        self._lock = threading.Lock()
        #: The experiments that wrote to each file.
        self._files: dict[str, dict[str, None]] = {}
        self._number = 0
        self._written = 0.0
        self._write_provenance()

    def add_row(self, experiment: Experiment, row: Mapping[str, str], path: str | None) -> None:
        """Take one row of a CSVGenerator, and the file that it goes to."""
        line = {"experiment": experiment.name, "file": experiment.registration.group}
        line["repetition"] = str(experiment.repetition)
        for name, value in experiment.params.items():
            line[f"param.{name}" if name in line else name] = str(value)
        for name, value in row.items():
            # A command may print a column of the same name as a parameter, or one of ours.
            line[name if line.get(name, value) == value else f"row.{name}"] = value
        with self._lock:
            self.rows.append(line)
            if path is None:
                return
            file = os.path.abspath(path)
            new = file not in self._files
            self._files.setdefault(file, {})[experiment.name] = None
        if new:
            self._write_beside(file)

    def add(self, result: Result, machines: Mapping[str, Any]) -> None:
        """Write where one experiment's results come from, next to the table."""
        experiment = result.experiment
        with self._lock:
            self._number += 1
            number = self._number
        document = {
            "version": VERSION,
            "run": self.provenance.run,
            "experiment": experiment.name,
            "file": experiment.registration.file,
            "params": {name: _plain(value) for name, value in experiment.params.items()},
            "repetition": experiment.repetition,
            "seed": self.provenance.seed,
            "command_line": self.provenance.command_line,
            "code": dataclasses.asdict(code) if (code := self._code(experiment)) else None,
            "status": result.status,
            "detail": result.detail,
            "restarts": result.restarts,
            "began": result.began,
            "ended": result.ended,
            "seconds": round(result.seconds, 6),
            "controller": self.provenance.controller,
            "servers": machines,
        }
        _write_json(self.folder / f"{number:05d}-{_file_name(experiment.name)}.json", document)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write_table()

    def finish(self) -> None:
        """Write everything for the last time."""
        self.provenance = dataclasses.replace(self.provenance, ended=now())
        self._write_table()
        self._write_provenance()
        for file in self._files:
            self._write_beside(file)

    def _code(self, experiment: Experiment) -> Any:
        return self.provenance.code.get(experiment.registration.file)

    def _write_table(self) -> None:
        with self._lock:
            rows = list(self.rows)
        self._written = time.monotonic()
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text_atomically(self.folder / "results.csv", _writable(text.getvalue()))
        _write_json(self.folder / "results.json", rows)

    def _write_provenance(self) -> None:
        _write_json(self.folder / "provenance.json", {"version": VERSION, **self.provenance.document()})

    def _write_beside(self, file: str) -> None:
        """Put ``FILE.provenance.json`` beside a file: one entry for each run that wrote to it."""
        path = Path(f"{file}.provenance.json")
        with self._lock:
            names = list(self._files[file])
        with _locked(path.parent):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                runs = [run for run in document["runs"] if run.get("run") != self.provenance.run]
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                runs = []
            runs.append({**self.provenance.document(), "results": str(self.folder), "experiments": names})
            _write_json(path, {"version": VERSION, "file": os.path.basename(file), "runs": runs})


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let other runs wait that write to files in this folder; where it cannot be locked, nobody waits."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def _new_folder(parent: Path, name: str) -> Path:
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RoomfulError("cannot make the folder", where=str(folder), why=error.strerror or "") from error
        return folder
    raise FileExistsError(parent / name)


def _file_name(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._=-]", "_", name)
    # Names of many parameters are longer than a file's may be.
    return safe if len(safe) <= 150 else f"{safe[:133]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _write_json(path: Path, document: Any) -> None:
    write_text_atomically(path, json.dumps(document, indent=1, default=str) + "\n")


def _plain(value: Any) -> Any:
    """Return what JSON can hold: keys of other types than text, and lists that hold themselves, it cannot."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _writable(text: str) -> str:
    """Replace the surrogates that stand for bytes that were no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
