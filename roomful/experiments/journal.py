"""What has been finished, for ``--resume``: ``.roomful/experiments.jsonl``, and distexprunner's own file."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roomful.errors import RoomfulError
from roomful.experiments.registry import Experiment
from roomful.state import private_directory

VERSION = 2
#: distexprunner's file, in the folder from which it was called.
OLD_NAME = ".distexprunner"


def key_of(experiment: Experiment, root: Path) -> str:
    """Return what identifies an experiment from one run to the next.

    That is its file's path from ``root`` on, function, parameters, repetition, and which of several it is that have
    all this in common.
    """
    registration = experiment.registration
    file = os.path.relpath(registration.file, root)
    return text_of([file, registration.name, experiment.repetition, experiment.occurrence], experiment.params)


def text_of(names: Sequence[object], params: Mapping[str, Any]) -> str:
    """Write names and parameters as one text, the same in every run."""
    try:
        return json.dumps([names, params], sort_keys=True, default=_stable)
    except (TypeError, ValueError, RecursionError):
        # JSON has neither keys of other types than text nor lists that hold themselves.
        return json.dumps([names, _stable(params)])


def _stable(value: Any) -> str:
    # An object's default repr holds its address, which is another one next time.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Journal:
    """Lines of JSON, one for each experiment that ended; the last about an experiment counts."""

    def __init__(self, path: Path, old: Path | None = None) -> None:
        """Read it; ``old`` is distexprunner's file. Raises RoomfulError where it cannot be read."""
        self.path = path
        # The project: its files keep their names when it moves.
        self._root = path.parent.parent.resolve()
        self._finished: set[str] = set()
        #: Whatever this file says something of, and what only distexprunner's says.
        self._known: set[str] = set()
        self._old: set[str] = set()
        #: The seed of the last run.
        self.seed: int | None = None
        for line in _lines(old) if old else ():
            entry = _document(line)
            if isinstance(entry.get("name"), str) and isinstance(entry.get("params"), dict):
                self._old.add(text_of([entry["name"]], entry["params"]))
        for line in _lines(path):
            self._apply(_document(line))

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry.get("version") != VERSION:
            return  # a line that was cut off, or of another version: the experiment runs again
        if isinstance(entry.get("seed"), int):
            self.seed = entry["seed"]
        key = entry.get("key")
        if isinstance(key, str):
            self._known.add(key)
            if entry.get("status") == "ok":
                self._finished.add(key)
            else:
                self._finished.discard(key)

    def finished(self, experiment: Experiment) -> bool:
        """Tell whether it has succeeded since it was last asked for anew."""
        key = key_of(experiment, self._root)
        return key in self._finished or (key not in self._known and self._finished_before(experiment))

    def _finished_before(self, experiment: Experiment) -> bool:
        """Tell whether distexprunner has finished it."""
        names = [f"{experiment.registration.group}__{experiment.registration.name}"]
        return experiment.repetition == 1 and text_of(names, experiment.params) in self._old

    def skips(self, experiment: Experiment) -> bool:
        """Tell whether ``--resume`` leaves it out."""
        return not experiment.registration.run_always and self.finished(experiment)

    def begin(self, experiments: Iterable[Experiment], seed: int, resume: bool) -> None:
        """Note that a run begins; one that does not resume forgets that these were finished."""
        entries: list[dict[str, Any]] = [{"seed": seed, "began": time.time()}]
        if not resume:
            again = [key_of(experiment, self._root) for experiment in experiments if self.finished(experiment)]
            entries += [{"key": key, "status": "again"} for key in again]
        self._append(entries)

    def add(self, experiment: Experiment, status: str, detail: str = "") -> None:
        """Note how an experiment ended, on disk before this returns."""
        entry = {"key": key_of(experiment, self._root), "name": experiment.name, "status": status, "detail": detail}
        self._append([{**entry, "ended": time.time()}])

    def _append(self, entries: list[dict[str, Any]]) -> None:
        private_directory(self.path.parent)
        text = "".join(json.dumps({"version": VERSION, **entry}) + "\n" for entry in entries)
        try:
            with self.path.open("a+", encoding="utf-8") as file:
                # A line that a killed run has cut off must not swallow this one.
                if file.tell() and not _ends_with_newline(self.path):
                    file.write("\n")
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RoomfulError("cannot write", where=str(self.path), why=error.strerror or str(error)) from error
        for entry in entries:
            self._apply({"version": VERSION, **entry})


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RoomfulError("cannot read", where=str(path), why=error.strerror or str(error)) from error


def _document(line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
