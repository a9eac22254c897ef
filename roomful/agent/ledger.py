"""What the host has to give, and what is taken: promises more to no task than is there."""

from __future__ import annotations

import heapq

from roomful.agent.task import TaskClass

#: Where no number of slots is set, tasks that ask for little may be this many on each CPU.
TASKS_PER_CPU = 16


class Ledger:
    """CPU in thousandths, memory in MiB, and numbered slots."""

    def __init__(self, cpu_milli: int, memory_mib: int, slots: int = 0) -> None:
        self.total_cpu = cpu_milli
        self.total_memory = memory_mib
        self.limit = 0
        self.used_cpu = 0
        self.used_memory = 0
        self.used_slots = 0
        self._returned: list[int] = []
        self._next = 1
        self.set_slots(slots)

    def set_slots(self, slots: int) -> None:
        """Change the number of slots; tasks above it run to their ends. 0: as many as the CPUs carry."""
        self.limit = slots or max(TASKS_PER_CPU, TASKS_PER_CPU * self.total_cpu // 1000)

    @property
    def free_slots(self) -> int:
        """How many more tasks may run."""
        return max(0, self.limit - self.used_slots)

    @property
    def free_cpu(self) -> int:
        """Thousandths of CPUs that nothing has asked for."""
        return max(0, self.total_cpu - self.used_cpu)

    @property
    def free_memory(self) -> int:
        """MiB that nothing has asked for."""
        return max(0, self.total_memory - self.used_memory)

    def take(self, needs: TaskClass) -> int | None:
        """Take what a task needs and return its slot; None, and nothing taken, where it does not fit."""
        if not self.free_slots or needs.cpu_milli > self.free_cpu or needs.memory_mib > self.free_memory:
            return None
        self.used_cpu += needs.cpu_milli
        self.used_memory += needs.memory_mib
        self.used_slots += 1
        if self._returned:
            return heapq.heappop(self._returned)
        self._next += 1
        return self._next - 1

    def give(self, needs: TaskClass, slot: int) -> None:
        """Take back what a task had."""
        self.used_cpu -= needs.cpu_milli
        self.used_memory -= needs.memory_mib
        self.used_slots -= 1
        heapq.heappush(self._returned, slot)
