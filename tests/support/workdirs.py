"""A workdir on this machine that is deployed to as a host's is, with a copy in the place of rsync."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from roomful.manifest import scan
from roomful.paths import key_of
from roomful.workdir.commit import commit
from roomful.workdir.releases import check

#: What a folder holds: text for a file, a Path for a link, None for an empty folder.
Tree = Mapping[str, "str | Path | None"]

#: Two versions of something to deploy.
ONE: Tree = {"run.py": "one", "data/a": "a", "data/b": "b", "old/x": "x", "empty": None}
TWO: Tree = {"run.py": "two", "data/a": "a", "data/c": "c", "new": "n"}


def make_tree(folder: Path, tree: Tree) -> Path:
    """Make a folder with this content, and nothing else in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_text(content)
    return folder


def read_tree(folder: Path) -> dict[str, str | Path | None]:
    """Return what a folder holds, seen through its links to folders; Roomful's own folder is left out."""
    found: dict[str, str | Path | None] = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name == ".roomful":
            continue
        if path.is_dir():
            inner = read_tree(path)
            found |= {f"{name}/{key}": value for key, value in inner.items()} or {name: None}
        elif path.is_symlink() and not path.exists():
            found[name] = path.readlink()
        else:
            found[name] = path.read_text(errors="replace")
    return found


class Workdir:
    """A workdir and how often it was deployed to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "workdir"
        self.source = folder / "source"
        self.runs = 0

    def store(self, dest: str = "") -> Path:
        """The folder of the releases."""
        return self.path / ".roomful" / "deploy" / key_of(dest)

    def releases(self, dest: str = "") -> list[str]:
        """The names of the releases that are there, without their records."""
        folder = self.store(dest) / "releases"
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    def leftovers(self, dest: str = "") -> list[str]:
        """What a deployment that ended well must not leave."""
        store = self.store(dest)
        found = [path for name in ("staging", "trash", "lock") for path in (store / name).iterdir()]
        found += [path for path in store.iterdir() if path.name.startswith(("current.", "lock."))]
        names = self.releases(dest)
        found += [path for path in (store / "releases").iterdir() if path.is_file() and path.stem not in names]
        return [str(path.relative_to(store)) for path in found]

    def stage(self, tree: Tree, dest: str = "", **changes: Any) -> dict[str, Any]:
        """Do what comes before a commit, and return the request for it; raises Refusal."""
        self.runs += 1
        manifest = scan(make_tree(self.source, tree)).hashed()
        request = {
            "workdir": str(self.path),
            "dest": dest,
            "key": key_of(dest),
            "entries": manifest.entry_digests(),
            "delete": False,
            "replace": False,
            "run": f"run{self.runs}",
            "index": 0,
            **changes,
        }
        answer = check(request)
        staging = f"host@me.run{self.runs}"
        staged = self.store(dest) / "staging" / staging
        staged.mkdir()
        release = self.store(dest) / "releases" / answer["release"] if answer["release"] else None
        for item in manifest.items:
            self._copy(Path(os.fsdecode(item.path)), staged, release)
        dead = [name for name in answer["stagings"] if name != staging]
        items = [item.to_wire() for item in manifest.items]
        return request | {
            "current": answer["current"],
            "name": f"release{self.runs}",
            "staging": staging,
            "dead": dead,
            "seeds": [],
            "items": items,
        }

    def _copy(self, path: Path, staged: Path, release: Path | None) -> None:
        source, target = self.source / path, staged / path
        if source.is_dir() and not source.is_symlink():
            target.mkdir()
            return
        old = release / path if release else None
        if old and old.is_file() and not old.is_symlink() and old.read_bytes() == source.read_bytes():
            os.link(old, target)
        else:
            shutil.copy2(source, target, follow_symlinks=False)

    def deploy(self, tree: Tree, dest: str = "", **changes: Any) -> dict[str, Any]:
        """Deploy a tree, unless it is current already; raises Refusal."""
        request = self.stage(tree, dest, **changes)
        if request["current"]:
            shutil.rmtree(self.store(dest) / "staging" / request["staging"])
            return {"current": True}
        return commit(request)


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """A workdir to which nothing was deployed yet."""
    return Workdir(tmp_path)


__all__ = ["ONE", "TWO", "Tree", "Workdir", "make_tree", "read_tree"]
