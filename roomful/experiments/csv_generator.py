"""Rows of results out of what commands print: regular expressions with named groups become columns."""

from __future__ import annotations

import copy
import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from roomful.errors import InputError
from roomful.experiments import csv_columns
from roomful.experiments.csv_columns import Column
from roomful.experiments.errors import ExperimentFailed
from roomful.experiments.session import current


class CSVGenerator:
    """Collect one row: ``CSVGenerator(r"ops=(?P<ops>\\d+)", CSVGenerator.Max(r"lat=(?P<lat>\\d+)"), run=3)``.

    Give it to ``run_cmd`` as a handler. Keywords are columns with a fixed value.
    """

    Default = csv_columns.Default
    Optional = csv_columns.Optional
    Array = csv_columns.Array
    SortedArray = csv_columns.SortedArray
    GroupedArray = csv_columns.GroupedArray
    Percentile = csv_columns.Percentile
    Mean = csv_columns.Mean
    Max = csv_columns.Max
    Min = csv_columns.Min
    Sum = csv_columns.Sum

    def __init__(self, *regexes: Any, **columns: object) -> None:
        self._header: list[str] = []
        self._columns: list[Column] = []
        self._manual: dict[str, str] = {}
        #: Whether its row is in the run's table of results.
        self._recorded = False
        self.add_columns(**columns)
        for regex in _flat(regexes):
            # A copy: the same expressions make many rows.
            column = csv_columns.Default(regex) if isinstance(regex, str) else copy.deepcopy(regex)
            if not isinstance(column, Column):
                raise InputError(f"not a regular expression: {regex!r}", where="CSVGenerator")
            for key in column.keys():  # noqa: SIM118  # not a mapping
                self._add(key)
            self._columns.append(column)

    def __call__(self, line: str) -> None:
        """Take a line."""
        for column in self._columns:
            column.search(line)

    def add_columns(self, **columns: object) -> None:
        """Add columns with a fixed value."""
        for key, value in columns.items():
            self._add(key)
            self._manual[key] = str(value)

    def _add(self, key: str) -> None:
        if key in self._header:
            raise InputError(f"column {key!r} twice", where="CSVGenerator")
        self._header.append(key)

    @property
    def header(self) -> str:
        """The names of the columns, as a line of CSV."""
        return _line(self._header)

    @property
    def row(self) -> str:
        """The values, as a line of CSV; raises ExperimentFailed where one is missing."""
        return _line(self.as_dict.values())

    @property
    def as_dict(self) -> dict[str, str]:
        """The values by column; raises ExperimentFailed where one is missing."""
        found = {key: text for column in self._columns for key, text in column.cols()} | self._manual
        missing = [key for key in self._header if key not in found]
        if missing:
            fix = "the command never printed them; CSVGenerator.Optional allows that"
            raise ExperimentFailed(f"no value for {', '.join(missing)}", where="CSVGenerator", fix=fix)
        return {key: found[key] for key in self._header}

    def write(self, path: str | os.PathLike[str], *parts: str | os.PathLike[str]) -> None:
        """Append the row to a CSV file here; a new file gets the header first.

        Raises ExperimentFailed where a value is missing or the file has other columns.
        """
        name = os.path.join(path, *parts)
        row = self.as_dict
        session = current()
        if session and not self._recorded:
            self._recorded = True
            session.record(row, name)
        try:
            # Experiments that run at the same time may write to the same file.
            with open(name, "a+", encoding="utf-8", errors="surrogateescape", newline="") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                first = file.readline().rstrip("\r\n")
                if not first:
                    file.write(f"{self.header}\n")
                elif first != self.header:
                    why = f"it has {first}, the row {self.header}"
                    raise ExperimentFailed("the file has other columns", where=name, why=why, fix="write to another")
                elif _lacks_newline(file):
                    file.write("\n")
                file.write(f"{_line(row.values())}\n")
        except OSError as error:
            raise ExperimentFailed("cannot write the file", where=name, why=error.strerror or str(error)) from error

    def record_unwritten(self, record: Callable[[dict[str, str], str | None], None]) -> None:
        """Hand over the row if it is complete and was never written."""
        if self._recorded:
            return
        try:
            row = self.as_dict
        except ExperimentFailed:
            return
        self._recorded = True
        record(row, None)


def _lacks_newline(file: IO[str]) -> bool:
    """Whether the last line has no end: an editor left it so, and the next row must not become part of it."""
    fd = file.fileno()
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, Iterable) and not isinstance(item, str | bytes):
            yield from _flat(item)
        else:
            yield item


def _line(values: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()
