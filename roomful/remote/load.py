"""How busy this host is at this moment, within the limits of our cgroup, as the agents' heartbeats tell it too.

`host` is the agent's own module, by a symbolic link: neither of the two packages may import the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import host


def load(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> dict[str, Any]:
    """Return ``load`` (one-minute average), ``running`` (tasks on a CPU or waiting for one), CPUs and memory."""
    average = float((proc / "loadavg").read_text().split()[0])
    cgroup = host.Cgroup.of(proc / "self", cgroups)
    memory = host.memory(cgroup, proc / "meminfo")
    return {
        "load": average,
        # The launcher that reads this runs too.
        "running": host.runnable(proc / "loadavg"),
        "cpus": host.cpus(cgroup),
        "memory": memory.total,
        "memory_free": memory.free,
    }
