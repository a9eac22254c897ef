"""A lock made of renames, which every filesystem does atomically, NFS too."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import time

from roomful.workdir.files import Refusal, listed, raw, remove

#: A lock that nobody renewed for this long belongs to a process that is gone.
STALE_SECONDS = 30.0
#: The holder renews its lock at least this often.
RENEW_SECONDS = 5.0
PAUSE_SECONDS = 0.1


class Lock:
    """A directory with one file in it, named by a token of the holder.

    To take it, a directory with our file is renamed onto its place, which works only where no lock or an empty one
    is. To take over a stale one, the file in it is renamed, which only one process can do, and nobody once the
    holder has renewed it. No clock is compared with another's: stale is what did not change while we watched.
    """

    def __init__(self, directory: bytes) -> None:
        self.directory = directory
        self.token = _new_token()
        self.renewed = time.monotonic()

    def __enter__(self) -> Lock:
        prepared = self.directory + b"." + self.token
        watched: list[bytes] = []
        since = time.monotonic()
        while not self._take(prepared):
            holders = listed(self.directory)
            if holders != watched:
                watched, since = holders, time.monotonic()
            stale = time.monotonic() - since > STALE_SECONDS
            if holders and (stale or _is_dead(holders[0])) and self._take_over(holders[0]):
                remove(prepared)
                break
            time.sleep(PAUSE_SECONDS)
        self.renewed = time.monotonic()
        return self

    def _take(self, prepared: bytes) -> bool:
        os.makedirs(prepared, exist_ok=True)
        try:
            with open(os.path.join(prepared, self.token), "wb"):
                pass
            os.rename(prepared, self.directory)
            return True
        except FileNotFoundError:
            # Someone tidied it away: make it again.
            return False
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False

    def _take_over(self, holder: bytes) -> bool:
        try:
            os.rename(os.path.join(self.directory, holder), os.path.join(self.directory, self.token))
        except FileNotFoundError:
            return False
        return True

    def renew(self, now: bool = False) -> None:
        """Say that we are alive, if it is time to; raises Refusal if the lock was taken from us."""
        if not now and time.monotonic() - self.renewed < RENEW_SECONDS:
            return
        token = _new_token()
        try:
            os.rename(os.path.join(self.directory, self.token), os.path.join(self.directory, token))
        except FileNotFoundError:
            raise Refusal("error", "another deployment took over the lock; run deploy again") from None
        self.token = token
        self.renewed = time.monotonic()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, self.token))


def _machine() -> str:
    """Name the set of processes that our process numbers mean something in."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _new_token() -> bytes:
    return raw(f"{_machine()}.{os.getpid()}.{random.SystemRandom().getrandbits(64):016x}")


def _is_dead(token: bytes) -> bool:
    machine, _, rest = token.partition(b".")
    pid = rest.partition(b".")[0]
    if machine != raw(_machine()) or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
