"""How much more fits on a disk, where that can be told before it is tried."""

from __future__ import annotations

import os

from roomful.workdir.files import Refusal, shown

#: On these a file takes its size. Others compress, share blocks, or ask a server that does.
PLAIN = frozenset({"ext2", "ext3", "ext4", "jfs", "reiserfs", "tmpfs", "xfs"})


def free_bytes(folder: bytes, mounts: str = "/proc/self/mountinfo") -> int | None:
    """Return how many bytes of files still fit where a folder is; None where only trying tells."""
    if _kind_of_disk(folder, mounts) not in PLAIN:
        return None
    disk = os.statvfs(folder)
    if not disk.f_blocks:
        # A tmpfs without a limit.
        return None
    return disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)


def _kind_of_disk(folder: bytes, mounts: str) -> str:
    try:
        device = os.stat(folder).st_dev
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split(" ")[2:3] == [wanted]:
            return after.split(" ")[0]
    return ""


def refuse_too_much(folder: bytes, missing: int) -> None:
    """Raise Refusal where a folder's disk has less room than ``missing`` bytes."""
    free = free_bytes(folder)
    if free is not None and missing > free:
        raise Refusal("disk-full", f"{shown(folder)} needs {_size(missing)} more, and {_size(free)} are free")


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.1f} GiB"
