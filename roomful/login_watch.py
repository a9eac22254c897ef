"""End an OpenSSH client whose host never says who it is: OpenSSH's own limit fails where bytes come now and then.

ssh looks at ``ConnectTimeout`` before each byte of the server's first line. A rest of exactly nothing is "no limit"
to it, so a byte that comes just at the end lets it wait for ever, and milliseconds that are not full count for
nothing. Its connection is in blocking mode until that line is there, which Linux shows in /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from pathlib import Path

#: ssh's own limit comes first, with its own words.
GRACE_SECONDS = 1.0
#: Names and further addresses take their time before the connection that counts.
LONGEST_SECONDS = 120.0
POLL_SECONDS = 0.25


def watch(seconds: float, host: str) -> None:
    """Watch this process, which is about to become an ssh for ``host``, from a process that nobody waits for.

    It ends this one, and says so on stderr, if the server's first line has not come ``seconds`` after it connected.
    Where there is no /proc, nothing is watched.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/fdinfo").exists():
        return
    pid = os.getpid()
    with contextlib.suppress(OSError):
        watched = os.pidfd_open(pid)
        child = os.fork()
        if child:
            os.close(watched)
            os.waitpid(child, 0)
            return
        try:
            if os.fork() == 0:
                _watch(pid, watched, seconds, host)
        finally:
            os._exit(0)


def _watch(pid: int, watched: int, seconds: float, host: str) -> None:
    # Not the terminal's, and no reader of our output waits for this process.
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    since = begun = time.monotonic()
    seen: tuple[str, bool] | None = None
    while not ended.poll(POLL_SECONDS * 1000):
        now = time.monotonic()
        found = connection_of(pid)
        if found != seen:
            seen, since = found, now
        if seen is None or now - since < seconds + GRACE_SECONDS:
            if now - begun > seconds + LONGEST_SECONDS:
                return
            continue
        if seen[1]:
            text = f"inv shell: {host}: timeout: it let us connect, but did not say who it is within {seconds:g} s\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watched, signal.SIGTERM)
        return


def connection_of(pid: int) -> tuple[str, bool] | None:
    """Return the first socket or pipe of a process beyond stderr, and whether it is in blocking mode."""
    folder = Path("/proc", str(pid))
    with contextlib.suppress(OSError):
        for number in sorted(int(name) for name in os.listdir(folder / "fd")):
            with contextlib.suppress(OSError):
                target = os.readlink(folder / "fd" / str(number))
                if number > 2 and re.match(r"(socket|pipe):", target):
                    flags = re.search(r"^flags:\s*([0-7]+)", (folder / "fdinfo" / str(number)).read_text(), re.M)
                    return target, flags is not None and not int(flags[1], 8) & os.O_NONBLOCK
    return None
