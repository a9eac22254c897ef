"""Make folders in a workdir, with one mode, all of them or none."""

from __future__ import annotations

import os
import stat
from typing import Any

from roomful.workdir.files import Refusal, home_path, lstat, raw, serve, shown, text


def make_folders(request: dict[str, Any]) -> dict[str, Any]:
    """Make folders and those above them; say which were made and which were there."""
    workdir = home_path(request["workdir"])
    paths = [os.path.join(workdir, raw(path)) for path in request["paths"]]
    mode = request["mode"]
    for path in paths:
        refuse_what_is_in_the_way(path)
    existed = [path for path in paths if os.path.isdir(path)]
    missing: list[bytes] = []
    for path in paths:
        missing += [folder for folder in above(path) if folder not in missing and not os.path.isdir(folder)]
    for folder in missing:
        make(folder, 0o777 if mode is None else 0o700)
    if mode is not None:
        # The innermost first: the mode may close the folder to ourselves.
        ours = [folder for folder in missing if folder != workdir and folder.startswith(os.path.join(workdir, b""))]
        for folder in sorted({*ours, *paths}, reverse=True):
            if stat.S_IMODE(os.stat(folder).st_mode) != mode:
                os.chmod(folder, mode)
    return {
        "created": [text(os.path.relpath(path, workdir)) for path in paths if path not in existed],
        "existed": [text(os.path.relpath(path, workdir)) for path in existed],
    }


def make(folder: bytes, mode: int) -> None:
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        # Another host of the same disk was quicker.
        if not os.path.isdir(folder):
            raise


def above(path: bytes) -> list[bytes]:
    """Return a path and all above it, the outermost first."""
    found = [path]
    while os.path.dirname(found[0]) != found[0]:
        found.insert(0, os.path.dirname(found[0]))
    return found


def refuse_what_is_in_the_way(path: bytes) -> None:
    for folder in above(path):
        info = lstat(folder)
        if info is not None and not os.path.isdir(folder):
            what = "a link to nothing" if stat.S_ISLNK(info.st_mode) and not os.path.exists(folder) else "no folder"
            raise Refusal("in-the-way", f"{shown(folder)} is there, and is {what}")


def main() -> None:
    serve(make_folders)
