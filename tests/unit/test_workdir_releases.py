"""What a deployment does on a host: releases, links, and what tasks made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.workdir import carrier
from roomful.workdir.commit import commit
from tests.support.workdirs import ONE, TWO, Workdir, read_tree


def test_what_is_deployed_is_seen_in_the_workdir(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    assert read_tree(workdir.path) == ONE
    assert workdir.leftovers() == []


def test_without_delete_what_was_deployed_before_stays(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    workdir.deploy(TWO)
    assert read_tree(workdir.path) == {**ONE, **TWO}


def test_with_delete_only_what_is_in_source_stays(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    workdir.deploy(TWO, delete=True)
    assert read_tree(workdir.path) == TWO
    assert sorted(os.listdir(workdir.path)) == [".roomful", "data", "new", "run.py"]


def test_with_delete_what_earlier_deployments_left_goes_too(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    workdir.deploy(TWO)
    assert "current" not in workdir.deploy(TWO, delete=True)
    assert read_tree(workdir.path) == TWO
    assert workdir.deploy(TWO, delete=True) == {"current": True}


def test_the_same_again_changes_nothing(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    before = workdir.releases()
    assert workdir.deploy(ONE) == {"current": True}
    assert workdir.releases() == before


def test_two_sources_with_different_names_stay_current_both(workdir: Workdir) -> None:
    workdir.deploy({"code": "1"})
    workdir.deploy({"data": "2"})
    assert workdir.deploy({"code": "1"}) == {"current": True}
    assert workdir.deploy({"data": "2"}) == {"current": True}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "data" / "a").write_text("z"),
        lambda path: (path / "data" / "a").chmod(0o600),
        lambda path: (path / "data" / "a").unlink(),
        lambda path: (path / "run.py").unlink(),
        lambda path: next((path / ".roomful/deploy/top/releases").glob("*.json")).unlink(),
    ],
    ids=["content", "mode", "file gone", "link gone", "record gone"],
)
def test_what_was_spoiled_there_is_deployed_again(workdir: Workdir, spoil: Callable[[Path], object]) -> None:
    workdir.deploy(ONE)
    spoil(workdir.path)
    assert "current" not in workdir.deploy(ONE)
    assert read_tree(workdir.path) == ONE
    assert (workdir.path / "data" / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("delete", [False, True])
def test_what_tasks_made_stays_through_any_number_of_deployments(workdir: Workdir, delete: bool) -> None:
    workdir.deploy(ONE)
    (workdir.path / "data" / "out").mkdir()
    (workdir.path / "data" / "out" / "r").write_text("result")
    (workdir.path / "old" / "log").write_text("log")
    (workdir.path / "own").write_text("outside of deployed folders")
    (workdir.path / "data" / "b").write_text("changed by a task")
    for number in range(3):
        workdir.deploy({**TWO, "run.py": str(number)}, delete=delete)
    seen = read_tree(workdir.path)
    assert (seen["data/out/r"], seen["old/log"], seen["own"]) == ("result", "log", "outside of deployed folders")
    assert seen["data/b"] == "changed by a task"
    assert ("old/x" in seen) is not delete


def test_a_task_that_works_in_the_old_release_still_does_and_its_files_come_along(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    old = Path(os.path.realpath(workdir.path / "data"))
    workdir.deploy(TWO, delete=True)
    assert (old / "b").read_text() == "b"
    (old / "late").write_text("late")
    workdir.deploy({**TWO, "run.py": "three"})
    assert not old.exists()
    assert (workdir.path / "data" / "late").read_text() == "late"


def test_what_a_task_removed_does_not_come_back(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    (workdir.path / "data" / "scratch").write_text("s")
    workdir.deploy(TWO)
    (workdir.path / "data" / "scratch").unlink()
    for number in range(3):
        workdir.deploy({**TWO, "run.py": str(number)})
        assert not (workdir.path / "data" / "scratch").exists()


def test_only_the_current_release_and_the_one_before_are_kept(workdir: Workdir) -> None:
    for number in range(4):
        workdir.deploy({"run.py": str(number)})
    assert workdir.releases() == ["release3", "release4"]
    assert workdir.leftovers() == []


def test_a_release_in_which_a_process_stands_is_kept(workdir: Workdir) -> None:
    workdir.deploy({"run.py": "0", "d/x": "x"})
    handle = os.open(workdir.path / "d", os.O_RDONLY)
    try:
        for number in range(1, 4):
            workdir.deploy({"run.py": str(number)})
        assert workdir.releases() == ["release1", "release3", "release4"]
    finally:
        os.close(handle)
    workdir.deploy({"run.py": "5"})
    assert workdir.releases() == ["release4", "release5"]


def test_unchanged_files_take_no_more_room(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    before = (workdir.path / "data" / "a").stat().st_ino
    workdir.deploy(TWO)
    assert (workdir.path / "data" / "a").stat().st_ino == before


def test_without_hard_links_files_of_tasks_are_copied(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    workdir.deploy(ONE)
    (workdir.path / "data" / "out").write_text("result")
    request = workdir.stage(TWO)
    monkeypatch.setattr(carrier.os, "link", no_links)
    commit(request)
    assert read_tree(workdir.path) == {**ONE, **TWO, "data/out": "result"}


def test_a_name_that_source_no_longer_has_may_be_taken_by_a_task(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    (workdir.path / "old").unlink()
    (workdir.path / "old").write_text("a task's")
    workdir.deploy(TWO)
    assert (workdir.path / "old").read_text() == "a task's"


def test_files_of_tasks_that_source_now_has_are_kept_aside(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    (workdir.path / "data" / "c").write_text("a task's c")
    (workdir.path / "data" / "f").mkdir()
    (workdir.path / "data" / "f" / "x").write_text("in a folder that becomes a file")
    answer = workdir.deploy({**TWO, "data/f": "a file"})
    assert answer["kept"] == 2
    kept = workdir.path / ".roomful" / "kept" / "release1"
    assert read_tree(kept) == {"data/c": "a task's c", "data/f/x": "in a folder that becomes a file"}
    assert read_tree(workdir.path)["data/c"] == "c"


def test_below_dest(workdir: Workdir) -> None:
    workdir.deploy(ONE, "code/v1")
    assert read_tree(workdir.path / "code" / "v1") == ONE
    workdir.deploy(TWO, "code/v1", delete=True)
    assert read_tree(workdir.path) == {f"code/v1/{name}": content for name, content in TWO.items()}
    workdir.path.rename(workdir.path.with_name("moved"))
    assert read_tree(workdir.path.with_name("moved") / "code" / "v1") == TWO
