"""What a deployment refuses on a host: what is in the way, and what did not arrive as it was sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful.workdir.commit import commit
from roomful.workdir.files import Refusal
from roomful.workdir.room import find_room
from tests.support.workdirs import ONE, TWO, Workdir, read_tree


@pytest.mark.parametrize("content", ["file", "folder", "foreign link"])
def test_what_is_in_the_way_is_refused_and_nothing_is_changed(workdir: Workdir, content: str) -> None:
    workdir.path.mkdir()
    place = workdir.path / "run.py"
    {
        "file": lambda: place.write_text("mine"),
        "folder": lambda: place.mkdir(),
        "foreign link": lambda: place.symlink_to("elsewhere"),
    }[content]()
    with pytest.raises(Refusal, match=r"run\.py is there, and not from deploy") as refused:
        workdir.deploy(ONE)
    assert refused.value.reason == "in-the-way"
    assert sorted(os.listdir(workdir.path)) == [".roomful", "run.py"]
    answer = workdir.deploy(ONE, replace=True)
    assert answer["replaced"] == [str(place)]
    assert read_tree(workdir.path) == ONE
    aside = workdir.path / ".roomful" / "replaced" / f"release{workdir.runs}" / "run.py"
    assert os.path.lexists(aside)


def test_what_came_into_the_way_during_the_push_is_refused_before_anything_changes(workdir: Workdir) -> None:
    workdir.deploy(ONE)
    request = workdir.stage(TWO)
    (workdir.path / "new").write_text("a task's")
    with pytest.raises(Refusal, match="new is there"):
        commit(request)
    assert read_tree(workdir.path) == {**ONE, "new": "a task's"}


@pytest.mark.parametrize("dest", ["data/sub", "run.py/sub", "run.py"])
def test_dest_in_or_through_what_was_deployed_is_refused(workdir: Workdir, dest: str) -> None:
    workdir.deploy(ONE)
    with pytest.raises(Refusal, match="was deployed itself"):
        workdir.deploy(TWO, dest)


def test_dest_through_a_file_is_refused(workdir: Workdir) -> None:
    workdir.path.mkdir()
    (workdir.path / "f").write_text("")
    with pytest.raises(Refusal, match="is no folder"):
        workdir.deploy(TWO, "f/sub")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda staged: (staged / "run.py").write_text("owt"), "run.py changed"),
        (lambda staged: (staged / "run.py").write_text("longer"), "run.py changed"),
        (lambda staged: (staged / "run.py").unlink(), "run.py did not arrive"),
        (lambda staged: ((staged / "new").unlink(), (staged / "new").symlink_to("run.py")), "new did not arrive"),
    ],
    ids=["content", "size", "missing", "kind"],
)
def test_what_did_not_arrive_as_it_was_sent_is_never_made_current(
    workdir: Workdir, spoil: Callable[[Path], object], why: str
) -> None:
    workdir.deploy(ONE)
    request = workdir.stage(TWO)
    spoil(workdir.store() / "staging" / request["staging"])
    with pytest.raises(Refusal, match=why):
        commit(request)
    assert read_tree(workdir.path) == ONE


def test_a_link_to_an_unverified_file_is_read(workdir: Workdir) -> None:
    """After a power cut a file of a cut push can have the right size and time, and no content."""
    workdir.deploy(ONE)
    cut = workdir.stage(TWO)
    torn = workdir.store() / "staging" / cut["staging"] / "new"
    info = torn.stat()
    torn.write_bytes(b"\0")
    os.utime(torn, ns=(info.st_atime_ns, info.st_mtime_ns))
    request = workdir.stage(TWO)
    staged = workdir.store() / "staging" / request["staging"] / "new"
    staged.unlink()
    os.link(torn, staged)
    with pytest.raises(Refusal, match="new changed"):
        commit(request)


def test_what_else_is_in_the_staging_folder_is_not_deployed(workdir: Workdir) -> None:
    request = workdir.stage(ONE)
    staged = workdir.store() / "staging" / request["staging"]
    (staged / ".run.py.Xa82bc").write_text("half")
    (staged / "data" / "more").mkdir()
    commit(request)
    assert read_tree(workdir.path) == ONE


def test_room_is_looked_for_by_taking_it(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    request = workdir.stage({"a": "12345", "b": "123"})
    staging = workdir.store() / "staging"
    (staging / request["staging"] / "a").unlink()
    taken: list[int] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda handle, start, size: taken.append(size))
    assert find_room(request) == {}
    assert taken == [5]
    monkeypatch.undo()
    request["items"] = [["huge", "file", 0o644, 1 << 50, ""]]
    with pytest.raises(OSError, match=r"File too large|No space left"):
        find_room(request)
    assert os.listdir(staging) == [request["staging"]]
