"""The few system calls that Python 3.11 does not offer: mounts and namespaces, through the C library."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

#: mount(2)
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
#: umount2(2)
MNT_DETACH = 2
#: setns(2), unshare(2)
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount as mount(2) does.

    Raises OSError.
    """
    _call("mount", source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())


def unmount(target: Path) -> None:
    """Take a mount away at once, whoever still uses it.

    Raises OSError.
    """
    _call("umount2", os.fsencode(target), MNT_DETACH)


def unshare(flags: int) -> None:
    """Give this process namespaces of its own.

    Raises OSError.
    """
    _call("unshare", flags)


def join_namespace(path: Path, kind: int) -> None:
    """Move the calling thread into the namespace that this file stands for.

    Raises OSError.
    """
    with open(path, "rb") as namespace:
        _call("setns", namespace.fileno(), kind)


def unmount_below(folder: Path) -> None:
    """Take away every mount below a folder, the newest first."""
    for point in reversed(mount_points()):
        if folder in point.parents:
            with contextlib.suppress(OSError):
                unmount(point)


def mount_points() -> list[Path]:
    """Return where something is mounted, in the order of mounting (proc(5), mountinfo)."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [Path(line.split()[4].encode("latin-1", "replace").decode("unicode_escape")) for line in lines]


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
