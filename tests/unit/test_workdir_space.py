"""Where it can be told how much more fits on a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roomful.workdir.files import Refusal
from roomful.workdir.space import free_bytes, refuse_too_much


def mounts(folder: Path, kind: str, device: int | None = None) -> str:
    """Write what /proc/self/mountinfo would say, and return its path."""
    own = os.stat(folder).st_dev if device is None else device
    path = folder / "mountinfo"
    path.write_text(f"20 1 {os.major(own)}:{os.minor(own)} / {folder} rw - {kind} dev rw\n")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "told"), [("ext4", True), ("tmpfs", True), ("zfs", False), ("nfs4", False), ("btrfs", False)]
)
def test_only_where_a_file_takes_its_size_is_it_told_what_fits(tmp_path: Path, kind: str, told: bool) -> None:
    free = free_bytes(os.fsencode(tmp_path), mounts(tmp_path, kind))
    assert (free is not None) is told


def test_an_unknown_disk_tells_nothing(tmp_path: Path) -> None:
    assert free_bytes(os.fsencode(tmp_path), mounts(tmp_path, "ext4", device=0)) is None
    assert free_bytes(os.fsencode(tmp_path), str(tmp_path / "absent")) is None
    assert free_bytes(os.fsencode(tmp_path / "absent")) is None


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    refuse_too_much(os.fsencode(tmp_path), 0)


def test_a_refusal_says_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomful.workdir.space.free_bytes", lambda folder: 3 << 20)
    with pytest.raises(Refusal) as refused:
        refuse_too_much(b"/w", 5 << 30)
    assert (refused.value.reason, refused.value.detail) == (
        "disk-full",
        "/w needs 5.0 GiB more, and 3.0 MiB are free",
    )
