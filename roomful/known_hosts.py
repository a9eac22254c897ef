"""known_hosts files, read once and indexed by key, so that a group of hosts does not search them one by one.

Format: sshd(8), section SSH_KNOWN_HOSTS FILE FORMAT. Paramiko reads the file per connection and searches it line by
line: 256 hosts with 1,000 hashed entries take 41 s that way. Looked up by the key that a host presents, only the few
lines with that very key are left to compare, hashed or not.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import fnmatch
import hashlib
import hmac
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Verdict(Enum):
    """What the known_hosts files say of a key that a host presents."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"
    #: The host is known, but only by keys of other types than the one presented.
    OTHER_TYPE = "other type"


@dataclass(frozen=True)
class PresentedKey:
    """The key that a host presents, under its name in known_hosts, and what the files say of it, on which line."""

    name: str
    key_type: str
    key: bytes
    verdict: Verdict
    where: str = ""
    #: The fingerprint that the files have instead, where the key has changed.
    instead_of: str = ""

    @property
    def warning(self) -> str:
        """What to say of a key that is refused."""
        instead = f", known by {self.instead_of}" if self.instead_of else ""
        # Where it stands comes first: a table cuts what is long.
        return f"{self.verdict.value} key ({self.where}): {self.shown}{instead}; nothing was sent"

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint."""
        return fingerprint(self.key)

    @property
    def shown(self) -> str:
        """The key's type and fingerprint, as OpenSSH prints them."""
        return f"{self.key_type} {fingerprint(self.key)}"


@dataclass(frozen=True)
class Line:
    """One key line: the name patterns before it, its type and its key (base64)."""

    patterns: tuple[str, ...]
    key_type: str
    key: str
    revoked: bool
    where: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the line's key; "" where that is no base64."""
        try:
            return fingerprint(base64.b64decode(self.key, validate=True))
        except binascii.Error:
            return ""

    def names(self, name: str) -> bool:
        """Tell whether this line speaks of the host ``name`` (``host`` or ``[host]:port``)."""
        found = False
        for pattern in self.patterns:
            if pattern.startswith("|1|"):
                found = found or _hash_matches(pattern, name)
            elif pattern.startswith("!"):
                if fnmatch.fnmatchcase(name, _as_glob(pattern[1:])):
                    return False
            elif pattern == name or (("*" in pattern or "?" in pattern) and _matches(pattern, name)):
                found = True
        return found


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, _as_glob(pattern))


def _as_glob(pattern: str) -> str:
    # known_hosts has * and ? only; fnmatch would read [host]:port as a character class.
    return pattern.replace("[", "[[]")


def _hash_matches(pattern: str, name: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        expected = base64.b64decode(digest, validate=True)
        return hmac.compare_digest(hmac.digest(base64.b64decode(salt), name.encode(), "sha1"), expected)
    except (ValueError, binascii.Error):
        return False


def host_pattern(host: str, port: int) -> str:
    """Return the name under which a host stands in known_hosts: ``host``, or ``[host]:port`` off port 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def fingerprint(key: bytes) -> str:
    """Return the key's fingerprint as OpenSSH prints it (``SHA256:...``)."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


class KnownHosts:
    """The lines of several known_hosts files; files that do not exist are empty. Safe to share between threads."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._lock = threading.Lock()
        self._by_key: dict[str, list[Line]] = {}
        self._lines: list[Line] = []
        for path in self.paths:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for number, raw in enumerate(text.splitlines(), 1):
            words = raw.split()
            if not words or words[0].startswith("#"):
                continue
            marker = words.pop(0) if words[0].startswith("@") else ""
            # Certificates (@cert-authority) are not supported by paramiko: such a line vouches for nobody here.
            if len(words) < 3 or marker not in ("", "@revoked"):
                continue
            patterns = tuple(words[0].lower().split(",")) if not words[0].startswith("|") else (words[0],)
            self._add(Line(patterns, words[1], words[2], marker == "@revoked", f"{path}:{number}"))

    def _add(self, line: Line) -> None:
        self._lines.append(line)
        self._by_key.setdefault(line.key, []).append(line)

    def check(self, name: str, key_type: str, key: bytes) -> tuple[Verdict, Line | None]:
        """Judge the key that the host ``name`` (see host_pattern) presents; the line is the one that decided."""
        text = base64.b64encode(key).decode()
        with self._lock:
            same_key = self._by_key.get(text, ())
            for line in same_key:
                if line.revoked:
                    return Verdict.REVOKED, line
            for line in same_key:
                if line.names(name):
                    return Verdict.KNOWN, line
            mine = [line for line in self._lines if not line.revoked and line.names(name)]
        for line in mine:
            if line.key_type == key_type:
                return Verdict.CHANGED, line
        return (Verdict.OTHER_TYPE, mine[0]) if mine else (Verdict.UNKNOWN, None)

    def judge(self, name: str, key_type: str, key: bytes) -> PresentedKey:
        """Return the key that the host ``name`` presents together with the verdict on it."""
        verdict, line = self.check(name, key_type, key)
        instead = line.fingerprint if line and verdict is Verdict.CHANGED else ""
        return PresentedKey(name, key_type, key, verdict, line.where if line else "", instead)

    def types_of(self, name: str) -> tuple[str, ...]:
        """Return the key types by which the host ``name`` is known."""
        with self._lock:
            return tuple(dict.fromkeys(x.key_type for x in self._lines if not x.revoked and x.names(name)))

    def remember(self, name: str, key_type: str, key: bytes) -> None:
        """Append a key to the first file and to the index."""
        path = self.paths[0]
        text = base64.b64encode(key).decode()
        with self._lock:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0, 2)
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(f"{name} {key_type} {text}\n".encode())
            self._add(Line((name,), key_type, text, False, str(path)))
