"""How much of a file is in the older version of it that a host has: what rsync would not send again.

The host shows some pieces of its version, taken at even distances (``workdir/pieces.py``), and here they are looked
for in the new one, wherever they are now.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from roomful.manifest import Manifest
from roomful.workdir.pieces import PIECE_BYTES, PIECES, offset_of

CHUNK_BYTES = 1 << 23
#: A piece is looked for first from this much before the place where it was.
NEAR_BYTES = 1 << 22


@dataclass(frozen=True)
class Older:
    """The older version of a file that a host has: its size, and its pieces."""

    size: int
    pieces: tuple[bytes, ...]


class Likeness:
    """Compares files of a manifest with older versions of them, each once."""

    def __init__(self, manifest: Manifest, hosts: int) -> None:
        self._manifest = manifest
        self._hosts = hosts
        self._known: dict[tuple[int, Older], bool] = {}

    def is_close(self, number: int, older: Older) -> bool:
        """Tell whether what is new of a file, sent to every host, is less than the whole file sent once."""
        key = (number, older)
        if key not in self._known:
            item = self._manifest.items[number]
            most = len(older.pieces) // self._hosts
            with open(os.path.join(self._manifest.root, item.path), "rb", buffering=0) as file:
                self._known[key] = not misses(file, older, most) > most
        return self._known[key]


def misses(file: BinaryIO, older: Older, most: int) -> int:
    """Return how many pieces of an older version are not in a file; counts no further than one more than ``most``."""
    size = os.fstat(file.fileno()).st_size
    missed = 0
    for number, piece in enumerate(older.pieces):
        start = max(0, offset_of(number, len(older.pieces), older.size) - NEAR_BYTES)
        if not (_holds(file, piece, start, size) or _holds(file, piece, 0, start + PIECE_BYTES)):
            missed += 1
            if missed > most:
                break
    return missed


def _holds(file: BinaryIO, piece: bytes, start: int, end: int) -> bool:
    before = b""
    while start < end:
        data = os.pread(file.fileno(), min(CHUNK_BYTES, end - start), start)
        if not data:
            return False
        if piece in before + data:
            return True
        before = data[-len(piece) :]
        start += len(data)
    return False


def older_of(shown: dict[str, Sequence[object]]) -> dict[int, Older]:
    """Read what a host shows of its older versions; what makes no sense is left out."""
    found: dict[int, Older] = {}
    for number, (size, pieces) in shown.items():
        if isinstance(size, int) and isinstance(pieces, list) and 0 < len(pieces) <= PIECES:
            found[int(number)] = Older(size, tuple(bytes.fromhex(str(piece)) for piece in pieces))
    return found
