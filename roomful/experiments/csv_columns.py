"""Columns of a row of results: what a regular expression's named groups collect from lines."""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from roomful.errors import InputError
from roomful.experiments.errors import ExperimentFailed


def number(text: str) -> int | float:
    """Read a number that a program printed; nothing is ever evaluated.

    Raises ExperimentFailed for a text that is none.
    """
    readers: tuple[Callable[[str], int | float], ...] = (int, float, lambda digits: int(digits, 0))
    for read in readers:
        with contextlib.suppress(ValueError):
            return read(text)
    raise ExperimentFailed(
        f"not a number: {text!r}", where="CSVGenerator", fix="let the regular expression match one"
    )


class Column:
    """What a regular expression's named groups collect from lines, and the text that comes of it."""

    #: The group that orders or names the others; it is no column itself.
    special: ClassVar[str] = ""

    def __init__(self, regex: str) -> None:
        try:
            self.regex = re.compile(regex)
        except (re.error, TypeError) as error:
            raise InputError(f"bad regular expression {regex!r}", where="CSVGenerator", why=str(error)) from error
        groups = list(self.regex.groupindex)
        if not groups or (self.special and self.special not in groups):
            wanted = self.special or "name"
            raise InputError(f"{regex!r} has no group (?P<{wanted}>...)", where=f"CSVGenerator.{type(self).__name__}")
        self.found: dict[str, list[tuple[str, str]]] = {name: [] for name in groups if name != self.special}

    def keys(self) -> Iterable[str]:
        """Return the names of the columns."""
        return self.found.keys()

    def search(self, line: str) -> None:
        """Take a line."""
        match = self.regex.search(line)
        if match:
            values = match.groupdict()
            key = values.pop(self.special, "") or ""
            for name, value in values.items():
                self.keep(name, key, value or "")

    def keep(self, name: str, key: str, value: str) -> None:
        """Keep what one line gave for a column."""
        self.found[name].append((key, value))

    def cols(self) -> Iterator[tuple[str, str]]:
        """Yield the columns that have a text, with it."""
        for name, found in self.found.items():
            text = self.text(found)
            if text is not None:
                yield name, text

    def text(self, found: list[tuple[str, str]]) -> str | None:
        """Return a column's text; None: there is none yet."""
        raise NotImplementedError


class Default(Column):
    """The last value."""

    def keep(self, name: str, key: str, value: str) -> None:
        """Keep the last only."""
        self.found[name] = [(key, value)]

    def text(self, found: list[tuple[str, str]]) -> str | None:
        """Return the last value."""
        return found[-1][1] if found else None


class Optional(Default):
    """The last value, or nothing."""

    def text(self, found: list[tuple[str, str]]) -> str:
        """Return the last value, or nothing."""
        return found[-1][1] if found else ""


class Array(Column):
    """Every value: ``1|2|3``."""

    def text(self, found: list[tuple[str, str]]) -> str:
        """Join all."""
        return "|".join(value for _, value in found)


class SortedArray(Array):
    """Every value, in the order of the number in the group ``i``."""

    special = "i"

    def text(self, found: list[tuple[str, str]]) -> str:
        """Sort and join."""
        return super().text(sorted(found, key=lambda item: number(item[0])))


class GroupedArray(Column):
    """Every value after that of the group ``key``: ``a~1|b~2``."""

    special = "key"

    def text(self, found: list[tuple[str, str]]) -> str:
        """Join keys and values."""
        return "|".join(f"{key}~{value}" for key, value in found)


class Statistic(Column):
    """One number out of all values; of no values, 0, as in distexprunner."""

    def text(self, found: list[tuple[str, str]]) -> str:
        """Return the statistic."""
        values = [number(value) for _, value in found]
        return str(self.of(values)) if values else "0"

    def of(self, values: list[int | float]) -> int | float:
        """Compute it."""
        raise NotImplementedError


class Mean(Statistic):
    """The arithmetic mean."""

    def of(self, values: list[int | float]) -> int | float:
        """Compute it."""
        return statistics.fmean(values)


class Max(Statistic):
    """The largest value."""

    def of(self, values: list[int | float]) -> int | float:
        """Compute it."""
        return max(values)


class Min(Statistic):
    """The smallest value."""

    def of(self, values: list[int | float]) -> int | float:
        """Compute it."""
        return min(values)


class Sum(Statistic):
    """The sum."""

    def of(self, values: list[int | float]) -> int | float:
        """Compute it."""
        return sum(values)


class Percentile(Statistic):
    """The value below which the share ``percentile`` (0 to 1) of all values lies."""

    def __init__(self, regex: str, percentile: float) -> None:
        super().__init__(regex)
        if not 0 <= percentile <= 1:
            raise InputError(f"bad percentile {percentile!r}", where="CSVGenerator", fix="give a number from 0 to 1")
        self.percentile = percentile

    def of(self, values: list[int | float]) -> int | float:
        """Pick it, without interpolation."""
        return sorted(values)[min(int(len(values) * self.percentile), len(values) - 1)]
