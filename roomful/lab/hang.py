"""A folder of a host that hangs, as one on a file server that is down: whoever looks into it waits for ever.

Started as a script (``python -I -S hang.py PID FOLDER``), so it imports only the standard library. It mounts a file
system over the folder, in the mount namespace of that process, and never answers what the kernel asks it (fuse(4)).
It prints ``ready`` and lives until SIGTERM, which takes the mount away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: setns(2), mount(2), umount2(2)
CLONE_NEWNS = 0x00020000
MS_NOSUID = 2
MS_NODEV = 4
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a libc function that returns 0; raise OSError with what was tried."""
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"{name}{arguments!r}")


def main(pid: str, folder: str) -> None:
    """Let the folder hang until a signal comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    with open(f"/proc/{pid}/ns/mnt", "rb") as namespace:
        call("setns", namespace.fileno(), CLONE_NEWNS)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    call("mount", b"hung", folder.encode(), b"fuse", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options)
    os.write(1, b"ready\n")
    os.close(1)
    signal.sigwait({signal.SIGTERM})
    call("umount2", folder.encode(), MNT_DETACH)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
