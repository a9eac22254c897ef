"""What a deployment consists of: every file of SOURCE with its mode, size and digest, read once for all hosts."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roomful.errors import InputError

#: Never deployed, wherever they stand in SOURCE.
DEFAULT_EXCLUDES = (".git", "__pycache__", ".roomful", ".venv")
_CHUNK = 1 << 20

Kind = Literal["file", "link", "folder"]


@dataclass(frozen=True)
class Item:
    """One entry of SOURCE. ``content`` is a file's SHA-256 or a link's target; ``path`` is relative to SOURCE."""

    path: bytes
    kind: Kind
    mode: int
    size: int = 0
    content: str = ""

    def to_wire(self) -> list[str | int]:
        """Return the item as JSON can hold it: bytes that are no UTF-8 become lone surrogates."""
        return [wire_text(self.path), self.kind, self.mode, self.size, self.content]


@dataclass(frozen=True)
class Manifest:
    """A folder and what of it is deployed, parents before what is in them."""

    root: bytes
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """The sum of the files' sizes in bytes."""
        return sum(item.size for item in self.items)

    def hashed(self) -> Manifest:
        """Read every file and return the manifest with their digests.

        Raises InputError for a file that cannot be read.
        """
        return Manifest(self.root, tuple(self._hashed(item) for item in self.items))

    def _hashed(self, item: Item) -> Item:
        if item.kind != "file":
            return item
        path = os.path.join(self.root, item.path)
        digest = hashlib.sha256()
        size = 0
        try:
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise _refused(path, "cannot read it", error.strerror or str(error)) from error
        return Item(item.path, "file", item.mode, size, digest.hexdigest())

    def entry_digests(self) -> dict[str, str]:
        """Return a digest of everything below each top-level name: equal if and only if the content is."""
        digests: dict[bytes, hashlib._Hash] = {}
        for item in sorted(self.items, key=lambda item: item.path):
            digest = digests.setdefault(item.path.split(b"/", 1)[0], hashlib.sha256())
            words = (item.path, item.kind.encode(), b"%o" % item.mode, wire_bytes(item.content))
            digest.update(b"".join(b"%d:%s," % (len(word), word) for word in words))
        return {wire_text(name): digest.hexdigest() for name, digest in digests.items()}

    def file_list(self) -> bytes:
        """Return the paths for ``rsync --from0 --files-from``; the ``./`` keeps ``#name`` from being a comment."""
        return b"".join(b"./" + item.path + b"\0" for item in self.items)


def wire_text(path: bytes) -> str:
    """Write a path as text that any bytes survive."""
    return path.decode("utf-8", "surrogateescape")


def wire_bytes(text: str) -> bytes:
    """Read back what wire_text wrote."""
    return text.encode("utf-8", "surrogateescape")


class Exclusions:
    """Patterns of what is left out, with rsync's meaning.

    A pattern without ``/`` matches a name anywhere; with a leading ``/`` it starts at SOURCE; with a ``/`` inside it
    matches the end of a path; with a trailing ``/`` only folders. ``*`` and ``?`` stop at ``/``, ``**`` does not.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [_rule(pattern) for pattern in patterns]

    def match(self, path: bytes, is_folder: bool) -> bool:
        """Tell whether a path relative to SOURCE is left out."""
        return any(rule.fullmatch(path) and (is_folder or not folders) for rule, folders in self._rules)


def _rule(pattern: str) -> tuple[re.Pattern[bytes], bool]:
    folders = pattern.endswith("/")
    body = pattern.rstrip("/")
    if not body or "\0" in pattern:
        raise InputError(
            f"bad pattern {pattern!r}", where="--exclude", fix="write a name or a pattern, such as '*.o'"
        )
    anchored = body.startswith("/")
    words = re.findall(r"\*\*|\*|\?|\[!?\]?[^\]]*\]|\\.|.", body.lstrip("/"), re.DOTALL)
    expression = b"" if anchored else b"(?:.*/)?"
    for word in words:
        if word == "**":
            expression += b".*"
        elif word == "*":
            expression += b"[^/]*"
        elif word == "?":
            expression += b"[^/]"
        elif len(word) > 2 and word[0] == "[":
            inside = word[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            inside = f"^{inside[1:]}" if inside[0] in "!^" else inside
            expression += f"(?!/)[{inside}]".encode(errors="surrogateescape")
        else:
            literal = word[1] if len(word) == 2 and word[0] == "\\" else word
            expression += re.escape(literal.encode(errors="surrogateescape"))
    try:
        return re.compile(expression, re.DOTALL), folders
    except re.error as error:
        raise InputError(f"bad pattern {pattern!r}", where="--exclude", why=str(error)) from None


def scan(source: Path, exclude: Sequence[str] = ()) -> Manifest:
    """List what is in SOURCE, a folder or one file, without reading any file.

    Raises InputError, with the path, for what cannot be deployed: a link that leads out of SOURCE, a socket, pipe or
    device, a file that cannot be read, nothing at all.
    """
    exclusions = Exclusions((*DEFAULT_EXCLUDES, *exclude))
    top = os.fsencode(source.expanduser())
    try:
        info = os.stat(top)
    except OSError as error:
        raise InputError("cannot read SOURCE", where=str(source), why=error.strerror or str(error)) from error
    if not stat.S_ISDIR(info.st_mode):
        real = os.path.realpath(top)
        if not stat.S_ISREG(info.st_mode):
            raise _refused(top, "it is neither a file nor a folder")
        return Manifest(os.path.dirname(real), (_file(real, os.path.basename(real), info),))
    root = os.path.realpath(top)
    items: list[Item] = []
    _scan_folder(root, b"", exclusions, items)
    if not items:
        raise InputError("there is nothing in SOURCE", where=str(source), fix="give a folder with files, or a file")
    return Manifest(root, tuple(items))


def _scan_folder(root: bytes, below: bytes, exclusions: Exclusions, items: list[Item]) -> None:
    folder = os.path.join(root, below)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _refused(folder, "cannot read it", error.strerror or str(error)) from error
    for entry in entries:
        path = os.path.join(below, entry.name)
        info = entry.stat(follow_symlinks=False)
        is_folder = stat.S_ISDIR(info.st_mode)
        if exclusions.match(path, is_folder):
            continue
        if is_folder:
            # The owner must be able to fill it there, and to remove it again.
            items.append(Item(path, "folder", info.st_mode & 0o777 | 0o700))
            _scan_folder(root, path, exclusions, items)
        elif stat.S_ISLNK(info.st_mode):
            items.append(_link(root, path))
        else:
            items.append(_file(entry.path, path, info))


def _file(full: bytes, path: bytes, info: os.stat_result) -> Item:
    if not stat.S_ISREG(info.st_mode):
        raise _refused(full, "it is a socket, a pipe or a device")
    if not os.access(full, os.R_OK):
        raise _refused(full, "cannot read it", "Permission denied")
    return Item(path, "file", info.st_mode & 0o777 | 0o400, info.st_size)


def _link(root: bytes, path: bytes) -> Item:
    full = os.path.join(root, path)
    target = os.readlink(full)
    resolved = os.path.realpath(full)
    # Followed as the kernel does, not by the text: a link through another one may leave where its text does not.
    if target.startswith(b"/") or not (resolved == root or resolved.startswith(os.path.join(root, b""))):
        raise _refused(full, "this link leads out of SOURCE", f"to {os.fsdecode(target)}")
    return Item(path, "link", 0o777, 0, wire_text(target))


def _refused(path: bytes, what: str, why: str = "") -> InputError:
    fix = "leave it out with --exclude, or remove it"
    return InputError(what, where=os.fsdecode(path), why=why, fix=fix)
