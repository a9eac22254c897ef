"""Where results come from, as git says it: also where git lies, is slow, or says nothing."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest

from roomful.experiments import provenance
from roomful.experiments.provenance import Code, code_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a repository with one commit, in which nothing has changed since."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "exp.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def git(folder: Path, *words: str) -> str:
    argv = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_clean_and_changed(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert code_of(repository) == Code(str(repository), commit, False)
    (repository / "new.py").touch()
    assert code_of(repository) == Code(str(repository), commit, True)


def test_the_folder_decides_and_not_the_repository_that_git_was_called_in(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    git(other, "commit", "--allow-empty", "-qm", "other")
    # As a hook has them.
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert code_of(repository) == Code(str(repository), commit, False)


@pytest.mark.parametrize("trouble", ["broken index", "large file"])
def test_what_git_cannot_say_is_not_called_clean(
    repository: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "exp.py").write_text("x = 2\n")
    if trouble == "broken index":
        (repository / ".git" / "index").write_text("junk")
    else:
        # Stands for one that takes long to read.
        (repository / ".git" / "info" / "attributes").write_text("exp.py filter=slow\n")
        git(repository, "config", "filter.slow.clean", "sleep 20; cat")
        os.utime(repository / "exp.py", (1, 1))
        (repository / "exp.py").write_text("x = 3\n")
        monkeypatch.setattr(provenance, "GIT_SECONDS", 1.0)
    assert code_of(repository) == Code(str(repository), commit, None)
    assert f"whether files in {repository} differ from their commit is unknown: " in caplog.text


def test_no_repository_is_nothing_to_warn_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert code_of(tmp_path) == Code()
    git(tmp_path, "init", "-q")
    assert code_of(tmp_path) == Code()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_of(tmp_path) == Code()
    assert caplog.text == ""


@pytest.mark.root
def test_a_repository_that_git_does_not_trust_is_warned_of(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    assert code_of(repository) == Code()
    assert f"the commit of {repository} is unknown: fatal: detected dubious ownership" in caplog.text
