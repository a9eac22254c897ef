"""Modes of folders, and folders on one machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from roomful.errors import InputError
from roomful.folders import parse_mode
from roomful.workdir.files import Refusal
from roomful.workdir.folders import make_folders


@pytest.mark.parametrize(("text", "mode"), [("", None), ("750", 0o750), ("0700", 0o700), ("2775", 0o2775)])
def test_modes_are_octal(text: str, mode: int | None) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["rwx", "9", "799", "07", "77777", "050", "0o750", "-1"])
def test_other_modes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="bad --mode"):
        parse_mode(text)


def make(workdir: Path, *paths: str, mode: int | None = None) -> dict[str, Any]:
    return make_folders({"workdir": str(workdir), "paths": list(paths), "mode": mode})


def test_folders_are_made_once(tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    assert make(workdir, "a/b", "a") == {"created": ["a/b", "a"], "existed": []}
    assert make(workdir, "a/b", "c", "\udcff") == {"created": ["c", "\udcff"], "existed": ["a/b"]}
    assert os.path.isdir(os.fsencode(workdir) + b"/\xff")


def test_a_mode_is_for_what_is_named_or_made_and_nothing_above(tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    workdir.mkdir(mode=0o755)
    (workdir / "old").mkdir(mode=0o755)
    make(workdir, "old/a/b", "old/c", mode=0o2710)
    modes = {name: (workdir / name).stat().st_mode & 0o7777 for name in (".", "old", "old/a", "old/a/b", "old/c")}
    assert modes == {".": 0o755, "old": 0o755, "old/a": 0o2710, "old/a/b": 0o2710, "old/c": 0o2710}


@pytest.mark.parametrize("kind", ["file", "dead link"])
def test_what_is_in_the_way_is_named_and_nothing_is_made(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "f"
    place.write_text("") if kind == "file" else place.symlink_to("nowhere")
    with pytest.raises(Refusal, match="f is there, and is"):
        make(tmp_path, "a", "f/x")
    assert os.listdir(tmp_path) == ["f"]


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "out").symlink_to("../scratch")
    assert make(tmp_path / "w", "out/a", "out") == {"created": ["out/a"], "existed": ["out"]}
    assert (tmp_path / "scratch" / "a").is_dir()
