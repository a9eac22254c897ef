"""Who sits at the host's own keyboard and screen, as ``who`` and ``loginctl`` would say."""

from __future__ import annotations

import os
import pwd
import struct
from pathlib import Path

UTMP, SESSIONS = Path("/run/utmp"), Path("/run/systemd/sessions")
#: utmp(5): type, pid, line, id, user, host, and what we do not need. The same on every Linux.
_ENTRY = struct.Struct("=hxxi32s4s32s256s52x")
_USER_PROCESS = 7


def users(utmp: Path = UTMP, sessions: Path = SESSIONS) -> set[str]:
    """Return the names of those who are logged in at the console; sessions over the network do not count."""
    return _of_utmp(utmp) | _of_sessions(sessions)


def others(utmp: Path = UTMP, sessions: Path = SESSIONS) -> set[str]:
    """Return the same without ourselves."""
    try:
        me = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        me = ""
    return users(utmp, sessions) - {me}


def _of_utmp(path: Path) -> set[str]:
    try:
        data = path.read_bytes()
    except OSError:
        return set()
    found = set()
    for start in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        kind, pid, line, _, user, host = _ENTRY.unpack_from(data, start)
        at_console = line.startswith((b"tty", b":")) or host.startswith(b":")
        # A line whose process has gone was left by a crash.
        if kind == _USER_PROCESS and at_console and os.path.exists(f"/proc/{pid}"):
            found.add(user.rstrip(b"\0").decode("utf-8", "replace"))
    return found


def _of_sessions(folder: Path) -> set[str]:
    """Read systemd-logind's own files: newer systems have no utmp any more."""
    try:
        names = os.listdir(str(folder))
    except OSError:
        return set()
    found = set()
    for name in names:
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        alive = fields.get("STATE") in ("active", "online")
        if fields.get("SEAT") and fields.get("CLASS") == "user" and alive:
            found.add(fields.get("USER", ""))
    return found - {""}
