"""What a deployment does on a host: releases, links, what tasks made, and a kill after any step."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roomful.workdir import carrier, lock
from roomful.workdir.commit import commit
from roomful.workdir.files import Refusal
from roomful.workdir.lock import Lock
from roomful.workdir.marks import leave_mark
from roomful.workdir.room import find_room
from tests.support.workdirs import Tree, Workdir, read_tree

ONE: Tree = {"run.py": "one", "data/a": "a", "data/b": "b", "old/x": "x", "empty": None}
TWO: Tree = {"run.py": "two", "data/a": "a", "data/c": "c", "new": "n"}


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir(tmp_path)


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


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Let the process die just before its ``step``-th change of the disk; yields the changes made."""
    changes: list[str] = []
    dead = False

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal dead
            if name == "open" and not set(kwargs.get("mode", args[1] if len(args) > 1 else "r")) & set("wax"):
                return real(*args, **kwargs)
            if dead or len(changes) >= step:
                # What is in a finally or an __exit__ does not happen either.
                dead = True
                raise Killed
            changes.append(name)
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "symlink", "link", "mkdir", "unlink", "rmdir", "chmod"):
            patch.setattr(os, name, dying(name, getattr(os, name)))
        patch.setattr(builtins, "open", dying("open", builtins.open))
        yield changes


def test_a_kill_before_any_step_leaves_the_old_or_the_new_version_and_the_next_one_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_is_dead", lambda token: True)
    tasks = {"data/out": "result", "data/deep/r": "result"}
    step, kinds = 0, set()
    while True:
        workdir = Workdir(tmp_path / str(step))
        workdir.deploy({"run.py": "zero", "zero/z": "z"})
        workdir.deploy(ONE, delete=True)
        for name, content in tasks.items():
            (workdir.path / name).parent.mkdir(exist_ok=True)
            (workdir.path / name).write_text(content)
        request = workdir.stage(TWO, delete=True)
        with killed_at(step) as changes:
            try:
                commit(request)
                finished = True
            except Killed:
                finished = False
        kinds.update(changes)
        seen = read_tree(workdir.path)
        # A link for a name of the new version may stand there already, or one for the old still; both lead nowhere.
        whole = {name: content for name, content in seen.items() if not isinstance(content, Path)}
        assert whole in ({**ONE, **tasks}, {**TWO, **tasks}), f"killed before step {step}, after {changes[-1:]}"
        if finished:
            break
        workdir.deploy({**TWO, "run.py": "three"}, delete=True)
        assert read_tree(workdir.path) == {**TWO, **tasks, "run.py": "three"}, f"killed before step {step}"
        assert workdir.leftovers() == [], f"killed before step {step}"
        assert len(workdir.releases()) == 2
        step += 1
    assert kinds == {"rename", "symlink", "link", "mkdir", "unlink", "rmdir", "chmod", "open"}
    assert step > 30


def test_one_lock_holder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PAUSE_SECONDS", 0.001)
    inside, most, rounds = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, rounds
        for _ in range(20):
            with Lock(os.fsencode(tmp_path / "lock")) as held:
                inside += 1
                most = max(most, inside)
                held.renew(now=True)
                rounds += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, rounds) == (1, 120)
    assert os.listdir(tmp_path / "lock") == []


def test_a_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    held = Lock(os.fsencode(tmp_path / "lock"))
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    held.token = held.token.replace(b".%d." % os.getpid(), b".%d." % pid)
    held.__enter__()
    with Lock(os.fsencode(tmp_path / "lock")):
        pass
    with pytest.raises(Refusal, match="took over the lock"):
        held.renew(now=True)


def test_a_lock_of_another_machine_is_taken_over_only_when_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.4)
    monkeypatch.setattr(lock, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(lock, "_machine", lambda: f"machine-{threading.current_thread().name}")
    held = Lock(os.fsencode(tmp_path / "lock"))
    held.__enter__()
    taken = threading.Event()

    def take() -> None:
        with Lock(os.fsencode(tmp_path / "lock")):
            taken.set()

    thread = threading.Thread(target=take, name="other")
    thread.start()
    for _ in range(8):
        assert not taken.wait(0.1)
        held.renew(now=True)
    assert taken.wait(5)
    thread.join()


def test_hosts_on_one_disk_see_each_others_marks_of_the_same_run(tmp_path: Path) -> None:
    own = os.fsencode(tmp_path)
    assert leave_mark(own, "a", 0) == []
    assert leave_mark(own, "a", 3) == [0]
    assert leave_mark(own, "b", 1) == []
    assert sorted(leave_mark(own, "a", 1)) == [0, 3]
    os.utime(tmp_path / "marks" / "a.0", (1, 1))
    assert leave_mark(own, "b", 2) == [1]
    assert sorted(path.name for path in (tmp_path / "marks").iterdir()) == ["a.1", "a.3", "b.1", "b.2"]


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
