"""Where things are kept: the project's ``.roomful`` folder, and the private folders on local disks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from roomful.errors import InputError, RoomfulError
from roomful.hosts import write_text_atomically
from roomful.settings import Settings


class ProjectState:
    """The controller's own memory of a project: which cluster it is, where its server runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = settings.root / ".roomful"

    @property
    def cluster_name(self) -> str:
        """The name that keeps this project's processes and folders apart from others on the same machines."""
        if self.settings.cluster:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", self.settings.cluster):
                fix = "use at most 41 letters, digits, '-', '_', '.'"
                raise InputError(f"bad cluster name {self.settings.cluster!r}", where="roomful.cluster", fix=fix)
            return self.settings.cluster
        root = self.settings.root.resolve()
        short = re.sub(r"[^A-Za-z0-9]+", "-", root.name).strip("-")[:20] or "project"
        return f"{short}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"

    @property
    def server_directory(self) -> Path:
        """The folder of the queue's data on the machine where the server runs; always on local disk."""
        if self.settings.server_directory:
            return self.settings.path(self.settings.server_directory)
        return Path(f"/var/tmp/roomful-{os.getuid()}") / self.cluster_name

    def read(self, name: str, version: int) -> dict[str, Any] | None:
        """Read ``.roomful/NAME.json``; None where there is none.

        Raises RoomfulError when it is not what ``write`` wrote with the same version.
        """
        path = self.directory / f"{name}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RoomfulError("cannot read", where=str(path), why=str(error), fix=f"remove it: rm {path}") from error
        if not isinstance(document, dict) or document.get("version") != version:
            raise RoomfulError("written by another version", where=str(path), fix=f"remove it: rm {path}")
        return document

    def write(self, name: str, document: dict[str, Any], version: int) -> None:
        """Write ``.roomful/NAME.json`` atomically, readable by its owner only."""
        private_directory(self.directory)
        text = json.dumps({"version": version, **document}, indent=1)
        write_text_atomically(self.directory / f"{name}.json", text + "\n", mode=0o600)

    def forget(self, name: str) -> None:
        """Remove ``.roomful/NAME.json``."""
        (self.directory / f"{name}.json").unlink(missing_ok=True)


def private_directory(path: Path) -> Path:
    """Make a folder that only its owner can enter; refuse one that someone else prepared.

    Raises RoomfulError if it is a symbolic link, not a folder, or another user's.
    """
    if path.parent.name == f"roomful-{os.getuid()}":
        private_directory(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise RoomfulError("not a folder of ours", where=str(path), fix="remove it, or set another one") from None
        if info.st_mode & 0o077:
            path.chmod(0o700)
    return path
