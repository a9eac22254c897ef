"""The hosts' control groups: CPU and memory limits, and freezing. Version 1 and version 2 of the kernel's interface.

Every lab has one folder of its name in each hierarchy that it uses, with one folder a host below.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roomful.errors import RoomfulError
from roomful.lab.model import LabOptions, cgroup_name

#: The period that a CPU quota refers to, in microseconds: the kernel's own default.
PERIOD_US = 100_000
#: How long folders may stay busy after their last process is gone, and a freeze may take.
BUSY_SECONDS = 5.0
CONTROLLERS = ("cpu", "memory", "freezer")
#: Versions 1 and 2: the file to write and what thaws or freezes, the file to read and what it says then.
_FREEZERS = (
    ("freezer.state", ("THAWED", "FROZEN"), "freezer.state", ("THAWED", "FROZEN")),
    ("cgroup.freeze", ("0", "1"), "cgroup.events", ("frozen 0", "frozen 1")),
)


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy: where our folders go in it, and which controllers it has for us."""

    mount: Path
    parent: Path
    version: int
    controllers: frozenset[str]


def hierarchies(mountinfo: str, own: str) -> list[Hierarchy]:
    """Find the hierarchies from the text of /proc/self/mountinfo and /proc/self/cgroup (see cgroups(7)).

    Version 1: our folders go below the group that we are in, whose limits so hold for the lab as well. Version 2
    forbids that, as a group with processes cannot hand controllers down: they go to the top of what is mounted.
    """
    groups = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        groups.update(dict.fromkeys(names.split(","), path))
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        mount = Path(point)
        if kind == "cgroup2":
            found[mount] = Hierarchy(mount, mount, 2, frozenset({"freezer", *_controllers(mount)}))
        elif kind == "cgroup":
            controllers = frozenset(options.split(",")) & frozenset(CONTROLLERS)
            if controllers:
                path = groups.get(sorted(controllers)[0], "/")
                below = path.removeprefix(root) if path.startswith(root) else ""
                found[mount] = Hierarchy(mount, mount / below.lstrip("/"), 1, controllers)
    return list(found.values())


def mounted() -> list[Hierarchy]:
    """Return the hierarchies of this machine, version 1 first: where both are mounted, it has the controllers."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="replace")
    found = hierarchies(mountinfo, Path("/proc/self/cgroup").read_text())
    return sorted((item for item in found if item.mount.is_dir()), key=lambda item: item.version)


def create(options: LabOptions, hosts: list[str], found: list[Hierarchy]) -> dict[str, list[Path]]:
    """Make the folders of these hosts with the lab's limits; return each host's folders.

    Raises RoomfulError where a limit is asked for that this machine cannot set.
    """
    wanted = {"freezer"}
    wanted |= {"cpu"} if options.cpus is not None else set()
    wanted |= {"memory"} if options.memory is not None else set()
    folders: dict[str, list[Path]] = {host: [] for host in hosts}
    for hierarchy in found:
        here = wanted & hierarchy.controllers
        if not here:
            continue
        wanted -= here
        lab = hierarchy.parent / cgroup_name(options.name)
        with _explained(lab):
            lab.mkdir(exist_ok=True)
            if hierarchy.version == 2:
                _hand_down(here - {"freezer"}, (hierarchy.parent, lab))
            for host in hosts:
                (lab / host).mkdir(exist_ok=True)
                _limit(lab / host, options, here, hierarchy.version)
                folders[host].append(lab / host)
    missing = wanted - {"freezer"}
    if missing:
        raise RoomfulError(f"this machine has no cgroup controller for: {', '.join(sorted(missing))}")
    return folders


def freeze(lab: str, host: str, frozen: bool) -> bool:
    """Freeze or thaw a host's processes; False where this machine cannot.

    Raises RoomfulError where it does not happen in time.
    """
    for folder in _lab_folders(lab):
        for control, words, report, said in _FREEZERS:
            if not (folder / host / control).exists():
                continue
            (folder / host / control).write_text(words[frozen])
            deadline = time.monotonic() + BUSY_SECONDS
            while said[frozen] not in (folder / host / report).read_text():
                if time.monotonic() > deadline:
                    raise RoomfulError("the cgroup does not freeze or thaw", where=str(folder / host))
                time.sleep(0.005)
            return True
    return False


def thaw_all(lab: str) -> None:
    """Let every frozen host of a lab go on (and so receive the signal that ends it)."""
    for folder in _lab_folders(lab):
        for control, words, _, _ in _FREEZERS:
            for file in folder.glob(f"*/{control}"):
                with contextlib.suppress(OSError):
                    file.write_text(words[False])


def remove(lab: str) -> None:
    """Remove the lab's folders from every hierarchy; their processes must have ended.

    Raises RoomfulError where they stay busy.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    for folder in list(_lab_folders(lab)):
        # The deepest first: programs on the hosts may have made groups of their own and have been cut off.
        for group in [Path(path) for path, _, _ in os.walk(folder, topdown=False)]:
            while True:
                try:
                    group.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise RoomfulError("the cgroup stays busy", where=str(group), why=str(error)) from error
                time.sleep(0.01)


def exists(lab: str) -> bool:
    """Tell whether any hierarchy has a folder of this lab."""
    return any(True for _ in _lab_folders(lab))


def _lab_folders(lab: str) -> Iterator[Path]:
    """The lab's folders, wherever its start was called from."""
    name = cgroup_name(lab)
    for hierarchy in mounted():
        for path, folders, _ in os.walk(hierarchy.mount):
            if name in folders:
                yield Path(path, name)
            # Another lab's hosts hold nothing of ours.
            folders[:] = [folder for folder in folders if not folder.startswith(cgroup_name(""))]


def _controllers(mount: Path) -> set[str]:
    try:
        return set((mount / "cgroup.controllers").read_text().split()) & {"cpu", "memory"}
    except OSError:
        return set()


def _hand_down(controllers: set[str], folders: tuple[Path, ...]) -> None:
    for folder in folders:
        control = folder / "cgroup.subtree_control"
        lacking = controllers - set(control.read_text().split())
        if lacking:
            control.write_text(" ".join(f"+{name}" for name in sorted(lacking)))


def _limit(folder: Path, options: LabOptions, controllers: set[str], version: int) -> None:
    quota_us = int((options.cpus or 0) * PERIOD_US)
    if "cpu" in controllers and version == 1:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    elif "cpu" in controllers:
        (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    if "memory" in controllers:
        name = "memory.limit_in_bytes" if version == 1 else "memory.max"
        (folder / name).write_text(str(options.memory))


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RoomfulError("cannot make a cgroup", where=str(folder), why=str(error)) from error
