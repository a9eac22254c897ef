"""The host's size is what its cgroups leave of it, in version 1 and in version 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roomful.agent.host import Cgroup, cpus, memory, runnable

GIB = 1 << 30
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nBuffers: 0 kB\nCached: 0 kB\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty /proc/self and /sys/fs/cgroup."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys").mkdir()
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def write(tree: Path, files: dict[str, str]) -> Cgroup:
    """Write files below the tree and find the groups."""
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroup.of(tree / "proc", tree / "sys")


def test_no_cgroups_is_the_whole_host(tree: Path) -> None:
    group = write(tree, {})
    assert memory(group, tree / "meminfo") == (16 * GIB, 8 * GIB)
    assert cpus(group) == len(os.sched_getaffinity(0))


def test_version_2_counts_the_tightest_limit_on_the_way_up(tree: Path) -> None:
    group = write(
        tree,
        {
            "proc/cgroup": "0::/user/session\n",
            "sys/cgroup.controllers": "cpu memory\n",
            "sys/user/memory.max": f"{4 * GIB}\n",
            "sys/user/memory.current": f"{3 * GIB}\n",
            "sys/user/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "sys/user/cpu.max": "50000 100000\n",
            "sys/user/session/memory.max": "max\n",
            "sys/user/session/cpu.max": "max 100000\n",
        },
    )
    assert memory(group, tree / "meminfo") == (4 * GIB, 2 * GIB)
    assert cpus(group) == 0.5


def test_version_1_reads_both_controllers(tree: Path) -> None:
    group = write(
        tree,
        {
            "proc/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/\n",
            "sys/memory/job/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/memory/job/memory.usage_in_bytes": f"{GIB}\n",
            "sys/memory/job/memory.stat": f"cache 5\ntotal_inactive_file {GIB // 2}\n",
            "sys/cpu,cpuacct/job/cpu.cfs_quota_us": "25000\n",
            "sys/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory(group, tree / "meminfo") == (2 * GIB, 3 * GIB // 2)
    assert cpus(group) == 0.25


@pytest.mark.parametrize("limit", ["9223372036854771712", "-1", "max", "garbage", str(64 * GIB)])
def test_no_real_limit_is_no_limit(tree: Path, limit: str) -> None:
    group = write(
        tree,
        {
            "proc/cgroup": "5:memory,cpu:/job\n",
            "sys/memory/job/memory.limit_in_bytes": limit,
            "sys/cpu/job/cpu.cfs_quota_us": "-1\n",
            "sys/cpu/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory(group, tree / "meminfo").total == 16 * GIB
    assert cpus(group) == len(os.sched_getaffinity(0))


def test_a_group_path_from_outside_a_container_falls_back_to_the_root(tree: Path) -> None:
    group = write(
        tree,
        {
            "proc/cgroup": "5:memory:/docker/not-visible-here\n",
            "sys/memory/memory.limit_in_bytes": f"{GIB}\n",
            "sys/memory/memory.usage_in_bytes": "1\n",
        },
    )
    assert memory(group, tree / "meminfo").total == GIB


def test_an_old_kernel_without_memavailable_counts_its_caches(tree: Path) -> None:
    (tree / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 30 kB\n")
    assert memory(write(tree, {}), tree / "meminfo") == (1000 * 1024, 150 * 1024)


def test_the_run_queue_is_without_who_asks(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("1.50 1.00 0.50 4/300 4711\n")
    assert runnable(tmp_path / "loadavg") == 3
    assert runnable(tmp_path / "absent") == 0
