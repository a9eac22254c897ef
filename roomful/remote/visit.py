"""Make an NFS client look at its server again, so that it shows what another machine has written.

A client keeps what it knew of files and folders for some seconds (acregmin to acdirmax: 3 to 60), names that it
looked for in vain too. It promises one thing, close-to-open consistency: who opens a file or folder after another
machine has closed it sees what that one wrote. dsh 0.1.3 waited for a lock file to appear and disappear; we open what
a command may be about, on the host right before the command starts, here right after it has ended:

1. every folder on the way to those that its words name, from the root down, so that one that was replaced is noticed;
   opening a folder that has changed makes a client forget which names were missing in it;
2. the files in these folders, those that are named (and foo.o beside foo.c) first, because one that was written in
   place does not show in its folder, and programs that only stat it (make) would be told its old time and size;
3. what lies below, breadth first, for scripts that name nothing, all together at most `MOST` opens.

Both sides run this module: the dispatcher here, a command's supervisor there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from typing import AbstractSet, Sequence

#: Most files and folders that are opened besides the named folders: at 0.2 ms for each no more than a blink.
MOST = 256
#: Filesystems whose state another machine can change behind our back.
NETWORK = re.compile(r"nfs\d?|cifs|smb3|afs|ceph|lustre|glusterfs|beegfs|gpfs|9p|fuse\..*")


def network_devices(mountinfo: str) -> frozenset[int]:
    """Return the network filesystems in the text of /proc/self/mountinfo, by the device numbers that stat shows."""
    found = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) > 4 and NETWORK.fullmatch(kind[0]):
            major, _, minor = fields[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def read_network_devices() -> frozenset[int]:
    """Return the network filesystems that are mounted now."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return network_devices(file.read())


def visit(folders: Sequence[str], stems: AbstractSet[str], devices: AbstractSet[int] | None = None) -> int:
    """Open these folders, and what is in them where it lies on a network; returns how many files and folders in them.

    ``stems``: names without suffix that are looked at first; ``devices``: network filesystems, if they are known.
    """
    seen: set[str] = set()
    waiting: deque[str] = deque()
    for folder in folders:
        if _walk_to(folder, seen) and devices is None:
            devices = read_network_devices()
        if devices:
            waiting.append(folder)
    left = MOST
    while waiting and left > 0:
        with contextlib.suppress(OSError):
            left -= _look_into(waiting.popleft(), stems, devices or frozenset(), seen, waiting, left)
    return MOST - left


def _walk_to(folder: str, seen: set[str]) -> bool:
    """Open the folders on the way to this one, and it; whether one of them is on no disk, so perhaps on a network."""
    virtual = False
    steps = folder.split("/")
    for count in range(1, len(steps) + 1):
        step = "/".join(steps[:count]) or "/"
        if step in seen:
            continue
        seen.add(step)
        try:
            handle = os.open(step, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            break
        except OSError:
            # One that we may pass but not read.
            continue
        virtual = virtual or os.major(os.fstat(handle).st_dev) == 0
        os.close(handle)
    return virtual


def _look_into(
    folder: str, stems: AbstractSet[str], devices: AbstractSet[int], seen: set[str], waiting: deque[str], most: int
) -> int:
    """Open the files in a folder and let the folders in it wait; returns how many were opened."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(handle).st_dev not in devices:
            return 0
        names = []
        with os.scandir(handle) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_dir(follow_symlinks=False) and f"{folder}/{entry.name}" not in seen:
                    waiting.append(f"{folder}/{entry.name}")
        names.sort(key=lambda name: os.path.splitext(name)[0] not in stems)
        for name in names[: most - 1]:
            with contextlib.suppress(OSError):
                os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=handle))
        return 1 + len(names[: most - 1])
    finally:
        os.close(handle)
