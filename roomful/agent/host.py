"""What the host has and how busy it is: CPUs, memory and load, within the limits of our cgroup."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

#: cgroup v1 writes "no limit" as a number near 2**63.
_NO_LIMIT = 1 << 60


class Memory(NamedTuple):
    """Bytes in all, and bytes that could be had without swapping."""

    total: int
    free: int


class Cgroup(NamedTuple):
    """Where the limits of our control group are written; None: none of that kind."""

    #: Folders from our group up to the root, with their version of the interface.
    memory: tuple[tuple[Path, int], ...]
    cpu: tuple[tuple[Path, int], ...]

    @classmethod
    def of(cls, proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> Cgroup:
        """Find our control groups, in version 1, version 2 or both."""
        memory: list[tuple[Path, int]] = []
        cpu: list[tuple[Path, int]] = []
        try:
            lines = (proc / "cgroup").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            names = controllers.split(",")
            if not controllers:
                base = root if (root / "cgroup.controllers").exists() else root / "unified"
                chain = _chain(base, path)
                memory += [(folder, 2) for folder in chain]
                cpu += [(folder, 2) for folder in chain]
            if "memory" in names:
                memory += [(folder, 1) for folder in _chain(root / "memory", path)]
            if "cpu" in names:
                base = root / controllers if (root / controllers).exists() else root / "cpu"
                cpu += [(folder, 1) for folder in _chain(base, path)]
        return cls(tuple(memory), tuple(cpu))


def _chain(base: Path, path: str) -> list[Path]:
    """List the folders from a group up to the root. In a container the path may not exist: then only the root."""
    folder = base / path.lstrip("/")
    chain = [folder]
    while folder != base and base in folder.parents:
        folder = folder.parent
        chain.append(folder)
    return [entry for entry in chain if entry.is_dir()]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().split()[0]
        value = int(text)
    except (OSError, ValueError, IndexError):
        return None
    return value if 0 < value < _NO_LIMIT else None


def cpus(cgroup: Cgroup) -> float:
    """Return how many CPUs we may use: those that we may run on, or what the cgroup grants if that is less."""
    count = float(len(os.sched_getaffinity(0)))
    for folder, version in cgroup.cpu:
        quota: float | None = None
        period: float | None = None
        if version == 2:
            try:
                words = (folder / "cpu.max").read_text().split()
                if words[0] != "max":
                    quota, period = float(words[0]), float(words[1])
            except (OSError, ValueError, IndexError):
                continue
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period:
            count = min(count, math.floor(quota / period * 1000) / 1000)
    return count


def memory(cgroup: Cgroup, meminfo: Path = Path("/proc/meminfo")) -> Memory:
    """Return the host's memory, or the tightest cgroup's on the way up."""
    values: dict[str, int] = {}
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable", "MemFree", "Buffers", "Cached"):
            values[name] = int(rest.split()[0]) * 1024
    total = values["MemTotal"]
    free = values.get("MemAvailable", values["MemFree"] + values.get("Buffers", 0) + values.get("Cached", 0))
    for folder, version in cgroup.memory:
        limit = _number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is None or limit >= values["MemTotal"]:
            continue
        used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
        # Files that are only cached leave when the memory is needed.
        cached = _stat(folder / "memory.stat", "inactive_file" if version == 2 else "total_inactive_file")
        total = min(total, limit)
        free = min(free, max(0, limit - max(0, used - cached)))
    return Memory(total, free)


def _stat(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def kernel_kills(cgroup: Cgroup, vmstat: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes the kernel has killed because memory ran out, on the host and in our cgroups."""
    names = {1: "memory.oom_control", 2: "memory.events"}
    files = [folder / names[version] for folder, version in cgroup.memory]
    return sum(_stat(path, "oom_kill") for path in [vmstat, *files])


def load() -> float:
    """Return the one-minute load average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def runnable(loadavg: Path = Path("/proc/loadavg")) -> int:
    """Return how many threads are on a CPU or wait for one, besides the one that asks."""
    try:
        return max(0, int(loadavg.read_text().split()[3].partition("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0
