"""A disk that does not take what is written: the thread in which a server syncs its file stands still."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
#: What Valkey and Redis call the thread; some go on after this.
SYNCING = "bio_aof"


@contextlib.contextmanager
def stuck(pid: int) -> Iterator[None]:
    """Let no sync of the server ``pid`` end within the ``with`` block; all else in it goes on.

    The server must be a child of ours. A debugger's stop is used, the only one that holds a single thread.
    """
    names = {int(path.name): (path / "comm").read_text().strip() for path in Path(f"/proc/{pid}/task").iterdir()}
    (thread,) = (number for number, name in names.items() if name.startswith(SYNCING))
    _ptrace(_SEIZE, thread)
    try:
        _ptrace(_INTERRUPT, thread)
        # __WALL: threads are not children like others.
        os.waitpid(thread, 0x40000000)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            _ptrace(_DETACH, thread)


def _ptrace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
