"""Processes that tasks leave behind: whose they are, and when they must go."""

from __future__ import annotations

import signal
from typing import Mapping, Sequence

from roomful.agent.attempt import Attempt
from roomful.agent.processes import Children, descendants, process, send, variable


class Orphans:
    """Children of ours that we did not start: the kernel gave them to us when their parents ended.

    Each belongs to a task: by its group, by ROOMFUL_TASK_ID in its environment, or, where it has hidden
    both, to one of the tasks that ran when we first saw it. When its task has ended, it and all below it is killed.
    """

    def __init__(self) -> None:
        self._children = Children()
        #: Orphan -> pid of its task's first process; 0: not known.
        self.known: dict[int, int] = {}
        #: Orphan of an unknown task -> the tasks that it may belong to.
        self._suspects: dict[int, set[int]] = {}

    def watch(self, running: Mapping[int, Attempt], closing: Sequence[Attempt] = ()) -> dict[int, int]:
        """Look at our children; return orphans that are alive, and whose they are."""
        strangers = [pid for pid in self._children.pids() if pid not in running]
        if not strangers:
            self.known, self._suspects = {}, {}
            return self.known
        attempts = {**running, **{attempt.pid: attempt for attempt in closing}}
        present: dict[int, int] = {}
        for pid in strangers:
            if pid not in self.known:
                owner = self._owner(pid, attempts)
                if owner is None:
                    continue
                self.known[pid] = owner
                if not owner:
                    self._suspects[pid] = set(attempts)
            present[pid] = self.known[pid]
        self.known = present
        self._suspects = {pid: tasks for pid, tasks in self._suspects.items() if pid in present}
        return present

    def of(self, attempt: Attempt) -> list[int]:
        """Return the orphans of a task that were there at the last look."""
        return [pid for pid, owner in self.known.items() if owner == attempt.pid]

    def of_ended(self, running: Mapping[int, Attempt], closing: Sequence[Attempt]) -> set[int]:
        """Kill what is left of ended tasks; return those tasks (by the pid that they had) that had something left."""
        present = self.watch(running, closing)
        survivors: set[int] = set()
        if not present:
            return survivors
        ended = {attempt.pid for attempt in closing}
        doomed = []
        for pid, owner in present.items():
            if owner in running or (not owner and self._suspects[pid] & set(running)):
                continue
            found = process(pid)
            if found is None or found.state == "Z":
                continue
            doomed.append(pid)
            survivors |= {owner} if owner in ended else ended & self._suspects.get(pid, set())
        if doomed:
            for pid in descendants(doomed):
                send(pid, signal.SIGKILL)
        return survivors

    def _owner(self, pid: int, attempts: Mapping[int, Attempt]) -> int | None:
        """Return the pid of an orphan's task, 0 if it cannot be told, None if there is no such process any more."""
        found = process(pid)
        if found is None or found.state == "Z":
            return None
        if found.group in attempts:
            return found.group
        task, number = variable(pid, "ROOMFUL_TASK_ID"), variable(pid, "ROOMFUL_ATTEMPT")
        for leader, attempt in attempts.items():
            if task == str(attempt.task_id) and number == str(attempt.number):
                return leader
        # A marked process of a task that has long ended belongs to no one who runs: it goes at once.
        return -1 if task is not None else 0
