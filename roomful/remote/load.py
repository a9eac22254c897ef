"""How busy this host is at this moment: three short files of /proc, read by the launcher when it is asked."""

from __future__ import annotations

import os
from typing import Any


def load(proc: str = "/proc") -> dict[str, Any]:
    """Return ``load`` (one-minute average), ``running`` (tasks on a CPU or waiting for one), CPUs and memory."""
    with open(proc + "/loadavg") as file:
        words = file.read().split()
    average = float(words[0])
    # The launcher that reads this runs too.
    running = max(0, int(words[3].split("/")[0]) - 1)
    memory = _meminfo(proc + "/meminfo")
    return {
        "load": average,
        "running": running,
        "cpus": len(os.sched_getaffinity(0)),
        "memory": memory.get("MemTotal", 0),
        "memory_free": memory.get("MemAvailable", memory.get("MemFree", 0)),
    }


def _meminfo(path: str) -> dict[str, int]:
    found = {}
    with open(path) as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemFree", "MemAvailable"):
                found[name] = int(rest.split()[0]) * 1024
            if name == "MemAvailable":
                break
    return found
