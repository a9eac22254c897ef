"""Whether a file is close to an older version that hosts have, by pieces of that."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from roomful.likeness import Likeness, Older, older_of
from roomful.manifest import scan
from roomful.workdir.pieces import PIECES, pieces_of

SIZE = 3_000_000


def bytes_of(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


OLD = bytes_of(1, SIZE)


@pytest.fixture
def older(tmp_path: Path) -> Older:
    (tmp_path / "old").write_bytes(OLD)
    size, pieces = pieces_of(bytes(tmp_path / "old"))
    assert len(pieces) == PIECES
    return older_of({"0": [size, pieces]})[0]


@pytest.mark.parametrize(
    ("new", "hosts", "close"),
    [
        (OLD[:100] + b"x" + OLD[101:], 64, True),
        (b"much before it" * 1000 + OLD, 64, True),
        (OLD[500_000:], 4, True),
        (OLD[500_000:], 16, False),
        (OLD + bytes_of(2, SIZE // 2), 64, True),
        (OLD[: SIZE // 2] + bytes_of(2, SIZE // 2), 4, False),
        (OLD[SIZE // 2 :] + OLD[: SIZE // 2], 64, True),
        (bytes_of(3, SIZE), 4, False),
        (b"short", 4, False),
    ],
    ids=["a byte", "shifted", "cut, few", "cut, many", "longer", "half", "turned", "another", "short"],
)
def test_close_is_what_costs_less_to_every_host_than_the_whole_once(
    tmp_path: Path, older: Older, new: bytes, hosts: int, close: bool
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "new").write_bytes(new)
    assert Likeness(scan(tmp_path / "source"), hosts).is_close(0, older) is close


def test_nothing_is_shown_of_small_files_and_of_those_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    assert pieces_of(bytes(tmp_path / "small")) == (5, [])
    assert pieces_of(bytes(tmp_path / "none")) == (0, [])
