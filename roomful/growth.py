"""What a pull writes here while it runs: how much of it there is, and whether it is more than was listed."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from roomful import report
from roomful.outcome import HostFailure

#: Where files stand until they are complete, in the folder that a pull fills; must exist there.
INCOMING = ".roomful-incoming"
#: In it, what is to come: rsync's own names are longer.
LIST = "list"
#: Beside files that were cut, what has come of them.
PARTIAL = ".roomful-partial"
#: A host whose rsync answers ours, but from which no file has grown for this long, is given up: it might never end.
STUCK_SECONDS = 600.0
POLL_SECONDS = 0.25
#: Files that tasks write grow between the listing and the transfer: so much beyond what was listed is taken.
SLACK_SHARE = 4
SLACK_BYTES = 64 << 20
#: What rsync is to say of each file that is complete (``--out-format``): its name may hold anything.
OUT_FORMAT = "file %i %l %b %n"
_COMPLETE = re.compile(rb"file >f\S+ \d+ \d+ (.*)\n", re.DOTALL)


def most(listed: int) -> int:
    """Return how many bytes may come where so many were listed."""
    return listed + listed // SLACK_SHARE + SLACK_BYTES


class Growth:
    """Watches a pull of listed files, for the time of a ``with`` block, and ends it where it must.

    ``sizes`` are those that the host listed. ``on_bytes`` gets how many bytes have come since its last call.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        target: Path,
        sizes: Mapping[bytes, int],
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        #: Why the pull was ended, if it was.
        self.failure: HostFailure | None = None
        self._process = process
        self._target = target
        self._sizes = sizes
        self._on_bytes = on_bytes
        self._most = most(sum(sizes.values()))
        self._largest = most(max(sizes.values(), default=0))
        self._complete = 0
        self._told = 0
        self._lines = 0
        self._named: bytes | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Growth:
        with contextlib.suppress(OSError, ValueError):
            # Whatever comes how fast: no file gets larger than this.
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (self._largest, self._largest))
        threading.Thread(target=self._watch, daemon=True, name="growth").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def hear(self, line: bytes) -> bool:
        """Take in a line that rsync printed; False where it is not about a file that is complete."""
        found = _COMPLETE.fullmatch(line)
        if not found:
            return False
        # rsync says so before it moves the file to its place, and does one after the other.
        self._settle(unescaped(found[1]))
        return True

    def finish(self) -> None:
        """Take in what the last file came to; rsync has ended."""
        self._settle(None)

    def _settle(self, following: bytes | None) -> None:
        path, self._named = self._named, following
        self._lines += 1
        if path is not None:
            full = os.path.join(os.fsencode(self._target), path)
            with contextlib.suppress(OSError):
                size = os.lstat(full).st_size
                with self._lock:
                    self._complete += size
                if size > most(self._sizes.get(path, 0)):
                    os.unlink(full)
                    self._end(_too_much(path, self._sizes.get(path, 0)))
        self._look()

    def too_large(self) -> HostFailure:
        """Return why rsync could write no more of a file, where it came to the limit."""
        return HostFailure(
            "protocol", f"the host sends more than it listed: a file of over {report.size(self._largest)}"
        )

    def _watch(self) -> None:
        seen, since = (-1, -1), time.monotonic()
        while not self._ended.wait(POLL_SECONDS):
            now = (self._lines, self._look())
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                self._end(HostFailure("lost", f"no file has grown for {STUCK_SECONDS:g} s"))
                return

    def _look(self) -> int:
        """Return the bytes of incomplete files, tell how many more have come, and end what exceeds its list."""
        incoming = self._incoming()
        with self._lock:
            here = self._complete + incoming
            news, self._told = max(0, here - self._told), max(here, self._told)
            if news and self._on_bytes:
                self._on_bytes(news)
        if incoming > self._largest:
            self._end(self.too_large())
        if here > self._most:
            listed = report.size(sum(self._sizes.values()))
            self._end(HostFailure("protocol", f"the host sends more than the {listed} that it listed"))
        return incoming

    def _end(self, failure: HostFailure) -> None:
        self.failure = self.failure or failure
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def _incoming(self) -> int:
        total = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._target / INCOMING):
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size if entry.name != LIST else 0
        return total


def _too_much(path: bytes, listed: int) -> HostFailure:
    name = path.decode(errors="backslashreplace")
    return HostFailure("protocol", f"the host sends more of {name} than the {report.size(listed)} that it listed")


def unescaped(name: bytes) -> bytes:
    """Read a name as rsync prints it: what cannot be printed as ``\\\\#`` and three octal digits."""
    return re.sub(rb"\\#([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), name)
