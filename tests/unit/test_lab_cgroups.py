"""Where the hosts' cgroups go, on both versions of the kernel's interface, and what is written into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.errors import RoomfulError
from roomful.lab import cgroups
from roomful.lab.cgroups import Hierarchy
from roomful.lab.model import LabOptions

VERSION_1 = """\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 29 0:28 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
33 29 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 29 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""
LIMITS = LabOptions(name="demo", cpus=0.5, memory=512 * 2**20)


def test_version_1_folders_go_below_our_own_group() -> None:
    own = "4:memory:/session/7\n1:cpu,cpuacct:/session\n6:freezer:/\n0::/\n"
    found = {str(item.mount): item for item in cgroups.hierarchies(VERSION_1, own)}
    assert found["/sys/fs/cgroup/memory"].parent == Path("/sys/fs/cgroup/memory/session/7")
    assert found["/sys/fs/cgroup/cpu,cpuacct"].parent == Path("/sys/fs/cgroup/cpu,cpuacct/session")
    assert found["/sys/fs/cgroup/freezer"].parent == Path("/sys/fs/cgroup/freezer")
    assert found["/sys/fs/cgroup/unified"].version == 2
    assert "/sys/fs/cgroup/pids" not in found


def test_in_a_container_our_group_is_counted_from_what_is_mounted() -> None:
    mountinfo = "31 29 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    (found,) = cgroups.hierarchies(mountinfo, "4:memory:/docker/abc/inner\n")
    assert found.parent == Path("/sys/fs/cgroup/memory/inner")


def hierarchy(mount: Path, version: int, *controllers: str) -> Hierarchy:
    mount.mkdir(exist_ok=True)
    return Hierarchy(mount, mount, version, frozenset(controllers))


def test_version_1_limits(tmp_path: Path) -> None:
    found = [
        hierarchy(tmp_path / "cpu", 1, "cpu"),
        hierarchy(tmp_path / "memory", 1, "memory"),
        hierarchy(tmp_path / "freezer", 1, "freezer"),
    ]
    folders = cgroups.create(LIMITS, ["lab01", "lab02"], found)
    own = tmp_path / "cpu" / "roomful-lab-demo" / "lab01"
    assert folders["lab01"][0] == own
    assert [path.parts[-3] for path in folders["lab02"]] == ["cpu", "memory", "freezer"]
    assert (own / "cpu.cfs_period_us").read_text() == "100000"
    assert (own / "cpu.cfs_quota_us").read_text() == "50000"
    memory = tmp_path / "memory" / "roomful-lab-demo" / "lab02" / "memory.limit_in_bytes"
    assert memory.read_text() == str(512 * 2**20)


def test_version_2_hands_the_controllers_down_and_limits(tmp_path: Path) -> None:
    found = [hierarchy(tmp_path, 2, "cpu", "memory", "freezer")]
    lab = tmp_path / "roomful-lab-demo"
    lab.mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    (lab / "cgroup.subtree_control").write_text("")
    folders = cgroups.create(LIMITS, ["lab01"], found)
    assert folders == {"lab01": [lab / "lab01"]}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert (lab / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (lab / "lab01" / "cpu.max").read_text() == "50000 100000"
    assert (lab / "lab01" / "memory.max").read_text() == str(512 * 2**20)


def test_what_version_1_has_is_not_made_twice(tmp_path: Path) -> None:
    found = [hierarchy(tmp_path / "freezer", 1, "freezer"), hierarchy(tmp_path / "unified", 2, "freezer")]
    cgroups.create(LabOptions(name="demo"), ["lab01"], found)
    assert not (tmp_path / "unified" / "roomful-lab-demo").exists()


def test_a_limit_that_the_machine_cannot_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RoomfulError, match="no cgroup controller for: memory"):
        cgroups.create(LIMITS, ["lab01"], [hierarchy(tmp_path, 1, "cpu", "freezer")])


def test_no_limits_need_no_controller() -> None:
    assert cgroups.create(LabOptions(name="demo"), ["lab01"], []) == {"lab01": []}


def test_version_2_freezes_and_thaws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "mounted", lambda: [hierarchy(tmp_path, 2, "freezer")])
    group = tmp_path / "roomful-lab-demo" / "lab01"
    group.mkdir(parents=True)
    (group / "cgroup.freeze").write_text("0")
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert cgroups.freeze("demo", "lab01", frozen=True)
    assert (group / "cgroup.freeze").read_text() == "1"
    assert not cgroups.freeze("demo", "lab02", frozen=True)
    assert not cgroups.freeze("other", "lab01", frozen=True)
    cgroups.thaw_all("demo")
    assert (group / "cgroup.freeze").read_text() == "0"


def test_a_labs_folders_are_found_wherever_its_start_was_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "mounted", lambda: [hierarchy(tmp_path, 1, "memory")])
    (tmp_path / "session" / "7" / "roomful-lab-demo" / "lab01").mkdir(parents=True)
    (tmp_path / "roomful-lab-demo2").mkdir()
    assert cgroups.exists("demo")
    cgroups.remove("demo")
    assert not cgroups.exists("demo")
    assert (tmp_path / "roomful-lab-demo2").exists()
