"""Which folder there is which folder here, and what NFS must be made to look at again.

NFS keeps what it knew of files and folders for some seconds (acregmin to acdirmax: 3 to 60), so that a file that was
written on one machine may be missing or old on the other. It promises one thing, close-to-open consistency: who opens
a file or folder after another machine has closed it sees what that one wrote. dsh 0.1.3 waited for a lock file to
appear and disappear; we open what the command may be about, right before it starts there and right after it has ended
here: the folder that it runs in, the folders of all words that look like paths, and here also the files that it may
have written in place. Opening a folder that has changed makes an NFS client forget what it remembered as missing.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from roomful.errors import InputError

#: Most folders that are looked at for one command: they come from its words.
MOST_FOLDERS = 64
#: Most files in one folder that are opened after a command.
MOST_FILES = 256
#: Filesystems whose state another machine can change behind our back.
NETWORK = re.compile(r"nfs\d?|cifs|smb3|afs|ceph|lustre|glusterfs|beegfs|gpfs|9p|fuse\..*")


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


def folders_of(cwd: str, argv: Sequence[str]) -> list[str]:
    """Return the folders that a command may read from or write to, as far as its words tell, ``cwd`` first."""
    found = dict.fromkeys([cwd])
    for word in argv[1:]:
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


def network_mounts(mountinfo: str) -> list[str]:
    """Return where network filesystems are mounted, from the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) > 4 and kind and NETWORK.fullmatch(kind[0]):
            found.append(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
    return found


def is_on(folder: str, mounts: Iterable[str]) -> bool:
    """Whether a folder lies on one of these mounts."""
    return any(folder == mount or folder.startswith(f"{mount.rstrip('/')}/") for mount in mounts)


def look_again(folders: Iterable[str], argv: Sequence[str]) -> int:
    """Make this machine's NFS client see what another one has written in these folders; returns the files opened."""
    stems = {PurePosixPath(word).stem for word in argv if not word.startswith("-")}
    opened = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            opened += _look_into(folder, stems)
    return opened


def _look_into(folder: str, stems: set[str]) -> int:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # foo.o beside foo.c may have been there before and written anew in place: the folder does not show that.
        with os.scandir(handle) as entries:
            related = [e.name for e in entries if PurePosixPath(e.name).stem in stems and e.is_file()][:MOST_FILES]
        for name in related:
            with contextlib.suppress(OSError):
                os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=handle))
        return len(related)
    finally:
        os.close(handle)
