"""What a collection is to bring: all outputs, those that match patterns, or exactly what tasks declared."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roomful.errors import InputError
from roomful.paths import inside_workdir
from roomful.records import TaskRecord

#: A list of missing outputs names this many.
MOST_NAMED = 3


@dataclass(frozen=True)
class Declared:
    """A file or folder that a task said it makes; ``path`` is relative to the workdir."""

    task_id: int
    path: str

    def __str__(self) -> str:
        return f"{self.path!r} of task {self.task_id}"


@dataclass(frozen=True)
class Wanted:
    """Which files of the workdirs are wanted; by itself all but those that are as deploy put them there.

    ``patterns`` are shell patterns relative to the workdir. With ``declared`` (by label of the host) it is these
    instead, whatever they are. With ``settled``, files that someone is still writing are left for another time.
    """

    patterns: tuple[str, ...] = ()
    declared: Mapping[str, Sequence[Declared]] | None = None
    settled: bool = False

    def request(self, label: str) -> dict[str, Any]:
        """Return what a host is asked for; raises InputError for a pattern that leads out of the workdir."""
        declared = None if self.declared is None else [one.path for one in self.declared.get(label, ())]
        patterns = [inside_workdir(pattern, "path") for pattern in self.patterns]
        return {"patterns": patterns, "declared": declared, "settled": self.settled}

    def missing(self, label: str, numbers: Iterable[int]) -> tuple[Declared, ...]:
        """Return the declared outputs with these places in what the host was asked for; raises IndexError."""
        declared = (self.declared or {}).get(label, ())
        return tuple(declared[number] for number in numbers)


@dataclass
class Declarations:
    """What tasks that are done have declared: by host, and what cannot be brought from any."""

    by_host: dict[str, list[Declared]] = field(default_factory=dict)
    #: Outputs below a ``cwd`` that is not in the workdir.
    outside: list[Declared] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[TaskRecord]) -> Declarations:
        """Gather the outputs of the tasks that are done, each from the host whose result counts."""
        found = cls()
        for record in records:
            for output in record.spec.outputs if record.state == "done" else ():
                path = posixpath.normpath(posixpath.join(record.spec.cwd, output))
                try:
                    declared = Declared(record.id, inside_workdir(path, "path"))
                except InputError:
                    found.outside.append(Declared(record.id, path))
                else:
                    found.by_host.setdefault(record.host, []).append(declared)
        return found


def named(missing: Sequence[Declared]) -> str:
    """Name the outputs that are missing, the first ones of many."""
    names = ", ".join(map(str, missing[:MOST_NAMED]))
    more = len(missing) - MOST_NAMED
    return f"{names} and {more} more" if more > 0 else names
