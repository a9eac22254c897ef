"""Which tasks a command is about, as people write it: ``5``, ``1,3-8``, ``last``, ``all``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from roomful.errors import InputError

#: How a selection is written, for help texts and errors.
GRAMMAR = "write task ids: 5, or 1,3-8, or last, or all"

_WORD = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,15}))?")


@dataclass(frozen=True)
class TaskIds:
    """Task ids in rising order, kept as inclusive ranges that neither touch nor overlap."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ids: Iterable[int]) -> TaskIds:
        """Fold ids into ranges."""
        return cls.merged((task_id, task_id) for task_id in ids)

    @classmethod
    def merged(cls, ranges: Iterable[tuple[int, int]]) -> TaskIds:
        """Sort and join ranges."""
        joined: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        return cls(tuple(joined))

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __str__(self) -> str:
        """Write the ids as a selection: ``1-5,8``."""
        return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in self.ranges)


@dataclass(frozen=True)
class TaskSelection:
    """A selection as it was written; what it means depends on how many tasks there are."""

    text: str
    ids: TaskIds = TaskIds()
    every: bool = False
    last: bool = False

    def resolve(self, highest: int) -> TaskIds:
        """Return the ids that are meant in a queue whose highest id is ``highest`` (0: no tasks at all).

        Raises InputError for an id beyond that, or where ``last`` means nothing.
        """
        if self.every:
            return TaskIds(((1, highest),) if highest else ())
        if highest == 0:
            raise InputError(
                f"no task {self.text}", why="the queue has no tasks yet", fix="submit some: inv submit FILE"
            )
        beyond = max((last for _, last in self.ids.ranges), default=0)
        if beyond > highest:
            raise InputError(f"no task {beyond}", why=f"the last one is {highest}", fix=GRAMMAR)
        return TaskIds.merged([*self.ids.ranges, *([(highest, highest)] if self.last else [])])


def parse_selection(text: str) -> TaskSelection:
    """Read a selection: ids, ranges ``FIRST-LAST``, and ``last`` (the task submitted last), or ``all``.

    Raises InputError for anything else.
    """
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return TaskSelection(text, every=True)
    ranges: list[tuple[int, int]] = []
    for word in words:
        if word == "last":
            continue
        match = _WORD.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if first < 1 or last < first:
            why = {0: "ids start at 1" if match else ""}.get(first, f"{first} is above {last}")
            raise InputError(f"bad task selection {text!r}", why=why, fix=GRAMMAR)
        ranges.append((first, last))
    return TaskSelection(text, TaskIds.merged(ranges), last="last" in words)
