"""The private keys that a login is tried with: files that need no passphrase, then those of the running ssh-agent."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko


@dataclass(frozen=True)
class Identity:
    """A private key that is ready to sign."""

    name: str
    key: paramiko.PKey


class _Agent(paramiko.Agent):
    """The running ssh-agent. All hosts' threads share its one connection, so a question waits for the one before."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        super().__init__()

    def _send_message(self, msg: Any) -> Any:
        with self._turn:
            return super()._send_message(msg)  # type: ignore[misc]  # not in paramiko's types


def identities(files: tuple[Path, ...]) -> tuple[Identity, ...]:
    """Load the private keys that need no passphrase; if one does, or there is none, also those of the ssh-agent."""
    found: list[Identity] = []
    locked = False
    for file in files:
        try:
            found.append(Identity(str(file), paramiko.PKey.from_path(file)))
        except (OSError, ValueError, TypeError, paramiko.SSHException):
            # Not there, encrypted, or of a type paramiko does not know: the next one may do.
            locked = locked or os.path.exists(file)
    if locked or not found:
        wanted = {public_key(file) for file in files}
        keys = sorted(_Agent().get_keys(), key=lambda key: f"{key.get_name()} {key.get_base64()}" not in wanted)
        found += [Identity(f"agent: {key.comment}", key) for key in keys]
    return tuple(found)


def public_key(file: Path) -> str:
    """Return the public half of a private key's file as ``TYPE BASE64``; "" where it lies not beside it."""
    try:
        return " ".join(file.with_name(f"{file.name}.pub").read_text(encoding="utf-8").split()[:2])
    except (OSError, ValueError):
        return ""
