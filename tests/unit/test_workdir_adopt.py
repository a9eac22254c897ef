"""A release put together from what a relay brought and from the release before, without a push."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from roomful import relay
from roomful.manifest import scan
from roomful.workdir.commit import commit
from roomful.workdir.seed import Seed
from tests.support.workdirs import Workdir


def relayed(workdir: Workdir, tree: dict[str, Any], bring: list[str]) -> dict[str, Any]:
    """Return the request for a tree of which these files were relayed, and none pushed."""
    request = workdir.stage(tree)
    staging = workdir.store() / "staging"
    shutil.rmtree(staging / request["staging"])
    manifest = scan(workdir.source)
    numbers = [number for number, item in enumerate(manifest.items) if os.fsdecode(item.path) in bring]
    seed = Seed(os.fsencode(staging / "seed"))
    seed.take(io.BytesIO(b"".join(relay._payload(manifest, numbers))), 1 << 20)
    return request | {"seeds": ["seed"], "dead": ["seed"]}


def test_files_come_from_the_seed_and_from_the_release_before(workdir: Workdir) -> None:
    workdir.deploy({"same": "same", "d/changes": "one"})
    tree = {"same": "same", "d/changes": "two", "d/new\n": "new", "link": Path("d/changes"), "empty": None}
    answer = commit(relayed(workdir, tree, ["d/changes", "d/new\n"]))
    assert answer == {"kept": 0, "replaced": []}
    assert (workdir.path / "same").read_text() == "same"
    assert (workdir.path / "d" / "changes").read_text() == "two"
    assert (workdir.path / "d" / "new\n").read_text() == "new"
    assert os.readlink(workdir.store() / "current" / "link") == "d/changes"
    assert (workdir.path / "empty").is_dir()
    assert workdir.leftovers() == []


@pytest.mark.parametrize("what", ["missing", "touched in the seed", "changed in the release"])
def test_where_something_is_missing_the_old_version_stays(workdir: Workdir, what: str) -> None:
    workdir.deploy({"same": "same", "changes": "one"})
    request = relayed(workdir, {"same": "same", "changes": "two"}, [] if what == "missing" else ["changes"])
    if what == "touched in the seed":
        (workdir.store() / "staging" / "seed" / "changes").write_text("bad")
    if what == "changed in the release":
        (workdir.store() / "current" / "same").write_text("SAME")
    assert commit(request) == {"incomplete": True}
    assert (workdir.path / "changes").read_text() == "one"
