"""Private folders and files on local disk: made 0700 and 0600, refused where someone else prepared them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

#: Most bytes in a Unix socket's path (``sun_path`` holds 108 with its NUL).
SOCKET_PATH_BYTES = 107
#: File systems that other machines see too: locks, sockets and fsync are not to be trusted there.
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
    ]
)
#: Variables that a daemon keeps of the environment it was started from.
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SSH_AUTH_SOCK", "KRB5CCNAME")


class Refusal(Exception):
    """Say in one sentence what cannot be done, why, and what to do about it; travels to the controller as JSON."""

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", code: str = "") -> None:
        super().__init__(": ".join(part for part in (where, what, why) if part))
        self.fields = {"what": what, "where": where, "why": why, "fix": fix, "code": code}


def private_directory(path: Path) -> Path:
    """Make a folder that only its owner can enter, and so each one above it up to ``roomful-UID``.

    Raises Refusal if one is a symbolic link, not a folder, or another user's.
    """
    if f"roomful-{os.getuid()}" in path.parent.parts:
        private_directory(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        check_private(path)
    return path


def check_private(path: Path) -> None:
    """Refuse a folder that is a link or another user's; close it to others where it is open to them."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise Refusal("not a folder of ours", where=str(path), fix="remove it, or set another one")
    if info.st_mode & 0o077:
        path.chmod(0o700)


def file_system(path: Path, mounts: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that holds ``path``; empty where it cannot be told."""
    found, longest = "", -1
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = str(path.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode().decode("unicode_escape")
        inside = point == "/" or real == point or real.startswith(point + "/")
        # Later mounts cover earlier ones at the same place.
        if inside and len(point) >= longest:
            found, longest = after.split(" ")[0], len(point)
    return found


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document for our own eyes, atomically."""
    write_atomically(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what ``write_json`` wrote; None where there is none, or where it is not that."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


class Lock:
    """An exclusive lock that ends with its process, whatever ends that; the file holds the owner's pid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None

    def acquire(self, wait: float = 0.0) -> bool:
        """Take the lock within ``wait`` seconds; False if another process has it."""
        deadline = time.monotonic() + wait
        while True:
            fd = os.open(str(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its owner may have removed the file in the meantime: then this locks nothing.
                if os.path.samestat(os.fstat(fd), os.lstat(str(self.path))):
                    break
                os.close(fd)
            except FileNotFoundError:
                os.close(fd)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self.fd = fd
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def owner(self) -> int | None:
        """Return the pid of the process that has the lock; None if none has, 0 if it has not said yet."""
        try:
            fd = os.open(str(self.path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            # A shared lock: several may look at the same time without taking each other for the owner.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            text = os.pread(fd, 20, 0).strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(fd)


@contextlib.contextmanager
def locked(path: Path, wait: float) -> Iterator[None]:
    """Hold a lock for the time of a ``with`` block; raises Refusal if another keeps it for ``wait`` seconds."""
    lock = Lock(path)
    if not lock.acquire(wait):
        raise Refusal("another command is at work here", where=str(path.parent), fix="try again when it has ended")
    try:
        yield
    finally:
        lock.release()


def daemon_environment() -> dict[str, str]:
    """Return the few variables that a daemon needs: nothing of the user's shell stays readable in /proc."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    kept["PATH"] = f"{kept.get('PATH', os.defpath)}:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin"
    return kept
