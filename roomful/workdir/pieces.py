"""Pieces of a file at even distances, by which it can be told from afar how much of it a newer version still has."""

from __future__ import annotations

import os

PIECES = 16
PIECE_BYTES = 32
#: Of smaller files nothing is shown: they are sent whole.
LEAST_BYTES = 1 << 20
#: No more files of a host show their pieces.
MOST_FILES = 500


def offset_of(number: int, count: int, size: int) -> int:
    """Return where a piece stands in a file."""
    return (size - PIECE_BYTES) * (2 * number + 1) // (2 * count)


def pieces_of(path: bytes) -> tuple[int, list[str]]:
    """Return a file's size and its pieces, none where it cannot be read or is too small."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < LEAST_BYTES:
                return size, []
            offsets = [offset_of(number, PIECES, size) for number in range(PIECES)]
            return size, [os.pread(file.fileno(), PIECE_BYTES, offset).hex() for offset in offsets]
    except OSError:
        return 0, []
