"""A deployment on a host that is killed before any of its steps."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roomful.workdir import lock
from roomful.workdir.commit import commit
from tests.support.workdirs import ONE, TWO, Workdir, read_tree


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
