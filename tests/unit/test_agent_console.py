"""Who is at the console: utmp's records and logind's files, as systems write them."""

from __future__ import annotations

import os
import pwd
import struct
from pathlib import Path

import pytest

from roomful.agent import console

NOWHERE = Path("/nonexistent")
GONE = 2**22 + 1


def entry(kind: int, user: str, line: str, host: str = "", pid: int = 0) -> bytes:
    """Make a record of utmp(5), 384 bytes long."""
    head = struct.pack(
        "=hxxi32s4s32s256s", kind, pid or os.getpid(), line.encode(), b"1", user.encode(), host.encode()
    )
    return head.ljust(384, b"\0")


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (entry(7, "ada", "tty2"), {"ada"}),
        (entry(7, "ada", ":0"), {"ada"}),
        (entry(7, "ada", "pts/3", ":0"), {"ada"}),
        (entry(7, "ada", "pts/3", "192.0.2.7"), set()),
        (entry(8, "ada", "tty2"), set()),
        (entry(7, "ada", "tty2", pid=GONE), set()),
        (entry(7, "ada", "tty2")[:100], set()),
    ],
    ids=["text", "graphical", "terminal window", "ssh", "logged out", "left by a crash", "cut off"],
)
def test_utmp(tmp_path: Path, record: bytes, found: set[str]) -> None:
    path = tmp_path / "utmp"
    path.write_bytes(entry(2, "reboot", "~") + record)
    assert console.users(path, NOWHERE) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("UID=1000\nUSER=ada\nACTIVE=1\nSTATE=active\nCLASS=user\nSEAT=seat0\n", {"ada"}),
        ("UID=1000\nUSER=ada\nACTIVE=1\nSTATE=active\nCLASS=user\nREMOTE=1\n", set()),
        ("UID=120\nUSER=gdm\nSTATE=active\nCLASS=greeter\nSEAT=seat0\n", set()),
        ("UID=1000\nUSER=ada\nSTATE=closing\nCLASS=user\nSEAT=seat0\n", set()),
        ("\0\0nothing that we know", set()),
    ],
    ids=["desktop", "ssh", "login screen", "logging out", "garbage"],
)
def test_sessions(tmp_path: Path, text: str, found: set[str]) -> None:
    (tmp_path / "1").write_text(text)
    (tmp_path / "c1.ref").mkdir()
    assert console.users(NOWHERE, tmp_path) == found


def test_we_are_not_the_others(tmp_path: Path) -> None:
    path = tmp_path / "utmp"
    me = pwd.getpwuid(os.getuid()).pw_name
    path.write_bytes(entry(7, me, "tty1") + entry(7, "ada", "tty2"))
    assert console.others(path, NOWHERE) == {"ada"}
