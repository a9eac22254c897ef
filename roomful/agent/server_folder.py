"""The server's folder: what is in it, where its socket is, and how all of it is removed again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Mapping

from roomful.agent.private import SOCKET_PATH_BYTES, Refusal, private_directory, read_json, write_atomically

#: What a start makes in the folder; nothing else is ever removed from it.
OWN_FILES = (
    "clients.json",
    "clients.lock",
    "keeper.log",
    "keeper.log.1",
    "known_hosts",
    "links.json",
    "lock",
    "output.log",
    "passwords.json",
    "server.json",
    "start.lock",
    "status.json",
    "supervisor.log",
    "supervisor.log.1",
    "upstream.json",
    "users.acl",
    "valkey.conf",
    "valkey.log",
    "valkey.log.1",
    "valkey.sock",
)
#: Where the append-only file is.
DATA = "data"
OWN_FOLDERS = ("bin", DATA)
OWN_PATTERNS = ("roomful-*.pyz", ".*.json.*", ".users.acl.*", ".valkey.conf.*", "temp-*")


def default_directory(cluster: str) -> Path:
    """Return the folder of the queue's data: on local disk, and kept over a reboot."""
    return Path(f"/var/tmp/roomful-{os.getuid()}") / cluster


def directory_of(request: Mapping[str, Any]) -> Path:
    """Return the folder that a request is about.

    Raises Refusal for a cluster name that is no file name.
    """
    cluster = str(request["cluster"])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", cluster):
        raise Refusal(f"bad cluster name {cluster!r}")
    return Path(request.get("directory") or default_directory(cluster))


def socket_path_in(directory: Path, cluster: str) -> str:
    """Return where the socket is to be: in the folder, or in a short one if that path is too long for the kernel."""
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return str(path)
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return str(private_directory(Path(f"/tmp/roomful-{os.getuid()}") / f"{cluster[:20]}-{digest}") / "valkey.sock")


def keep_zipapp(directory: Path, source: Path) -> Path:
    """Copy this program beside the data, if it is not there: it must outlive the removal of what started it."""
    kept = directory / source.name
    if source.resolve().parent != directory.resolve():
        write_atomically(kept, source.read_bytes())
    for old in directory.glob("roomful-*.pyz"):
        if old != kept:
            old.unlink()
    return kept


def link_tool(directory: Path, program: str) -> None:
    """Make ``bin/valkey-check-aof``: the server program is that tool when it is called so."""
    link = directory / "bin" / "valkey-check-aof"
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(program)


def data_without_manifest(directory: Path) -> str:
    """Return where data are whose manifest is gone: Valkey (from 7.0 on) would not read but overwrite them."""
    folder = directory / DATA / "appendonlydir"
    names = os.listdir(str(folder)) if folder.is_dir() else []
    alone = any(name.endswith(".aof") for name in names) and not any(name.endswith(".manifest") for name in names)
    return str(folder / "appendonly.aof.manifest") if alone else ""


def size_of(directory: Path) -> int:
    """Return the bytes in all files below a folder."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def forget(directory: Path) -> None:
    """Remove everything that a start has made, and the folders that are empty then."""
    socket_path = Path((read_json(directory / "server.json") or {}).get("socket") or directory / "valkey.sock")
    for name in OWN_FOLDERS:
        if (directory / name).is_dir() and not (directory / name).is_symlink():
            shutil.rmtree(directory / name)
    for path in [directory / name for name in OWN_FILES] + [p for o in OWN_PATTERNS for p in directory.glob(o)]:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            path.unlink()
    with contextlib.suppress(OSError):
        if socket_path.parent != directory:
            socket_path.parent.rmdir()
            socket_path.parent.parent.rmdir()
    with contextlib.suppress(OSError):
        directory.rmdir()
        if directory.parent.name == f"roomful-{os.getuid()}":
            directory.parent.rmdir()


def last_lines(path: Path, lines: int = 1) -> str:
    """Return the end of a text file; empty if there is none."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""
