"""The lock of a whole machine, which other groups' scripts take with ``flock FILE COMMAND``.

It is a kernel lock on a file whose name is agreed upon: it ends with the last process that holds it, so a kill leaves
none behind. What the file says, a line ``USER PID SECONDS_SINCE_1970 PROGRAM``, is for people only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from pathlib import Path

#: Everybody on the machine may take it, and say so in it.
MODE = 0o666
#: A longer text is not ours.
LONGEST_TEXT = 4096


class HostLock:
    """The lock, held by at most one process tree on the machine; what is started meanwhile holds it too."""

    def __init__(self, path: str, program: str = "roomful") -> None:
        """Name the lock's file; empty: nobody ever asks for this machine as a whole."""
        self.path = path
        self.program = program
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether we have it."""
        return self._fd >= 0

    def take(self) -> str:
        """Take it; return why that is not possible, as ``locked by USER since TIME``, empty if we have it now."""
        if self.held or not self.path:
            return ""
        try:
            fd = open_lock(self.path)
        except OSError as error:
            return f"cannot be locked: {self.path}: {error.strerror or error}"
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = _described(fd)
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return other
            return f"cannot be locked: {self.path}: {error.strerror or error}"
        _write(fd, f"{_user(os.getuid())} {os.getpid()} {int(time.time())} {self.program}\n")
        # Handed on: should we be killed, the machine is not free before our tasks are gone.
        os.set_inheritable(fd, True)
        self._fd = fd
        return ""

    def release(self) -> None:
        """Let others take it, once all that was started meanwhile has ended."""
        if self.held:
            _write(self._fd, "")
            os.close(self._fd)
            self._fd = -1

    def holder(self) -> str:
        """Say who else has it, without taking it; empty: nobody."""
        return "" if self.held or not self.path else holder(self.path)


def open_lock(path: str) -> int:
    """Open the file, make it if it is not there; raises OSError for what cannot be a lock."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # Without O_CREAT first: in a folder like /tmp the kernel refuses that for the files of others.
        try:
            fd = os.open(path, flags | os.O_RDWR)
        except PermissionError:
            fd = os.open(path, flags | os.O_RDONLY)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, MODE)
        with contextlib.suppress(PermissionError):
            # Whatever the umask says.
            os.fchmod(fd, MODE)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file of its own", path)
    return fd


def holder(path: str) -> str:
    """Say who holds a machine's lock, as ``HostLock.take`` does, without taking it; empty: nobody."""
    lock = HostLock(path)
    if not os.path.lexists(path):
        return ""
    try:
        fd = open_lock(path)
    except OSError:
        return lock.take()
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""
    except OSError:
        return _described(fd)
    finally:
        os.close(fd)


def _described(fd: int) -> str:
    said = _said(fd)
    pid = 0 if said else _locker(os.fstat(fd))
    who, since, program = said or (_user_of(pid) or "somebody", _started(pid), _name(pid))
    words = f"locked by {who}" + (f" ({program})" if program else "")
    return f"{words} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))}" if since else words


def _said(fd: int) -> tuple[str, float, str] | None:
    """Return what the file says, if the process that wrote it is still there: user, time, program."""
    with contextlib.suppress(OSError, ValueError):
        text = os.pread(fd, LONGEST_TEXT, 0).decode("utf-8", "replace")
        user, pid, since, program = text.split(maxsplit=3)
        if 0 < _started(int(pid)) <= float(since) + 2:
            return _plain(user), float(since), _plain(program.strip())
    return None


def _locker(info: os.stat_result) -> int:
    """Return the process that has locked a file, as far as the kernel shows it; 0: not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF; a second word "->" is somebody who waits.
            if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(info.st_ino):
                return max(0, int(words[4]))
    return 0


def _started(pid: int) -> float:
    """Return when a process was started, in seconds since 1970; 0: it is not there, or not any more."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return 0.0
        ticks = int(fields[19])
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return int(line.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def _user_of(pid: int) -> str:
    try:
        return _user(os.stat(f"/proc/{pid}").st_uid) if pid else ""
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return _plain(Path(f"/proc/{pid}/comm").read_text().strip()) if pid else ""
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _plain(text: str) -> str:
    """Leave out what could do something to a terminal: anybody can write into the file."""
    return "".join(character if character.isprintable() else "?" for character in text)[:80]


def _write(fd: int, text: str) -> None:
    # Not ours to write, or no room: the lock is what counts.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
