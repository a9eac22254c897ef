"""Files that are complete or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roomful.atomic_file import AtomicFile, write_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / ("n" * 255)
    with AtomicFile(path, mtime_ms=1_700_000_000_123) as file:
        file.write(b"one")
        assert names(path.parent) != [path.name]
        file.write(b"two")
    assert path.read_bytes() == b"onetwo"
    assert names(path.parent) == [path.name]
    assert path.stat().st_mtime_ns // 1_000_000 == 1_700_000_000_123


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with AtomicFile(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_target_that_is_a_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "d" / "in").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_bytes(tmp_path / "d", b"x")
    assert names(tmp_path) == ["d"]


def test_the_umask_decides_the_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_everything_is_written_where_the_kernel_takes_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    write_bytes(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"
