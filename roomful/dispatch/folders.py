"""Which folder there is which folder here, and which folders and files a command is about, for NFS's sake.

What is done with them is in `roomful.remote.visit`.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Sequence
from pathlib import PurePosixPath

from roomful.errors import InputError
from roomful.remote.visit import network_devices

#: Most folders that are looked at for one command: they come from its words.
MOST_FOLDERS = 64
#: What separates names in a shell's command line.
SEPARATORS = re.compile(r"[\s;&|<>()'\"`]+")


def mapped(folder: str, chdir: str) -> str:
    """Return what a folder here is called there; ``chdir`` is ``FROM=TO`` or empty.

    Raises InputError.
    """
    if not chdir:
        return folder
    source, equals, target = chdir.partition("=")
    if not equals or not source.startswith("/") or not target.startswith(("/", "~")):
        raise InputError(
            f"bad --chdir {chdir!r}", fix="write FROM=TO with absolute folders, such as /home/me=/data/me"
        )
    source, target = source.rstrip("/"), target.rstrip("/")
    if folder != source and not folder.startswith(f"{source}/"):
        return folder
    return f"{target}{folder[len(source) :]}".rstrip("/") or "/"


def names_of(argv: Sequence[str]) -> list[str]:
    """Return what may be a path in a command's words, also in a line that is for a shell."""
    found = dict.fromkeys(argv[1:])
    for word in argv[1:]:
        found.update(dict.fromkeys(filter(None, SEPARATORS.split(word))))
    return list(found)


def folders_of(cwd: str, argv: Sequence[str]) -> list[str]:
    """Return the folders that a command may read from or write to, as far as its words tell, ``cwd`` first."""
    found = dict.fromkeys([cwd])
    for word in names_of(argv):
        # -Iinclude, -o/tmp/x, --output=dir/file, dir/file
        text = re.sub(r"^(--?[A-Za-z0-9-]+=|-[A-Za-z])", "", word) if word.startswith("-") else word
        path = os.path.normpath(os.path.join(cwd, text))
        if "/" in text:
            found.setdefault(os.path.dirname(path))
        if text and ("/" in text or text != word):
            found.setdefault(path)
        if len(found) >= MOST_FOLDERS:
            break
    return list(found)[:MOST_FOLDERS]


def stems_of(argv: Sequence[str]) -> list[str]:
    """Return the names without suffix of the files that a command's words name: foo for foo.c, which makes foo.o."""
    return sorted({PurePosixPath(name).stem for name in names_of(argv)[:MOST_FOLDERS]} - {""})


class Mounts:
    """Network filesystems here, read again when the kernel says that something was mounted (as automounters do)."""

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", errors="surrogateescape")  # noqa: SIM115
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)
        self._lock = threading.Lock()
        self._devices: frozenset[int] | None = None

    def devices(self) -> frozenset[int]:
        """Return their device numbers."""
        with self._lock:
            if self._devices is None or self._changes.poll(0):
                self._file.seek(0)
                self._devices = network_devices(self._file.read())
            return self._devices
