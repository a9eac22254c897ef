"""What a machine is and how busy it is, as one line of JSON. Runs on any Python 3.8 or newer; looks into no home."""

from __future__ import annotations

import time

NOW = time.time()

import json  # noqa: E402  # the time is taken first: the controller compares its clock with it
import os  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402


def cpus() -> int:
    """Return how many CPUs a process of ours may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the CPU's name; "" where the kernel does not tell."""
    try:
        with open("/proc/cpuinfo", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model", "cpu model"):
                    return value.strip()
    except OSError:
        pass
    return platform.machine()


def memory() -> tuple[int, int]:
    """Return the bytes of memory that there are, and those that new programs can have."""
    found = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                key, _, rest = line.partition(":")
                found[key] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    total = found.get("MemTotal", 0)
    return total, found.get("MemAvailable", found.get("MemFree", total))


def free_bytes(folder: str) -> int:
    """Return how many bytes an ordinary user can still write there; -1 where that cannot be told."""
    try:
        info = os.statvfs(folder)
        return info.f_bavail * info.f_frsize
    except OSError:
        return -1


def main() -> None:
    """Print what this machine is."""
    total, available = memory()
    facts = {
        "time": NOW,
        "cpus": cpus(),
        "cpu_model": cpu_model(),
        "memory_bytes": total,
        "memory_free_bytes": available,
        "load": round(os.getloadavg()[0], 2),
        "temporary_free_bytes": free_bytes(os.environ.get("TMPDIR", "/tmp")),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(f"\nroomful-probe {json.dumps(facts)}\n")


if __name__ == "__main__":
    main()
