"""Deployments that are killed, cut and disturbed: the old version or the whole new one, whatever happens when."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from roomful import host_program, rsync
from roomful.deploy import Deployed, Deployment, deploy
from roomful.hosts import Host
from roomful.lab import Lab
from roomful.outcome import Outcomes
from roomful.settings import Settings
from tests.support.deploying import hosts, results, settings, slow, source, staging, workdirs
from tests.support.lab import lab, rootless_lab
from tests.support.processes import argv_of, children
from tests.support.waiting import wait_until
from tests.support.workdirs import make_tree, read_tree

__all__ = ["hosts", "lab", "rootless_lab", "settings", "source", "workdirs"]


def pushes(workdir: Path) -> list[int]:
    """The rsync processes of ours that push into a workdir."""
    return [pid for pid in children(os.getpid()) if "rsync" in argv_of(pid)[:1] and str(workdir) in argv_of(pid)[-1]]


def test_a_killed_push_leaves_the_old_version_and_the_next_one_goes_on(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, workdir = hosts[:1], workdirs[0]
    deploy(host, settings, Deployment(source))
    old = read_tree(workdir)
    (source / "run.py").write_text("two")
    (source / "aaa").write_bytes(os.urandom(200_000))
    (source / "zzz").write_bytes(os.urandom(2_000_000))
    done: list[Outcomes[Deployed]] = []
    with monkeypatch.context() as patch:
        slow(patch, 400)
        thread = threading.Thread(target=lambda: done.append(deploy(host, settings, Deployment(source))))
        thread.start()
        releases = workdir / ".roomful" / "deploy" / "top" / "staging"
        wait_until(lambda: list(releases.glob("*/aaa")) and pushes(workdir), 20)
        os.kill(pushes(workdir)[0], signal.SIGKILL)
        thread.join(20)
    assert done[0][0].status == "failed"
    assert (done[0][0].reason, read_tree(workdir)) == ("interrupted", old)
    assert len(staging(workdir)) == 1
    outcome = deploy(host, settings, Deployment(source))[0]
    assert outcome.value
    # What had arrived whole is not sent again.
    assert outcome.value.files_sent == 1
    assert 2_000_000 < outcome.value.bytes_sent < 2_150_000
    assert (workdir / "run.py").read_text() == "two"
    assert staging(workdir) == []


def test_a_killed_controller_leaves_no_process_and_the_old_version(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, workdir = hosts[:1], workdirs[0]
    deploy(host, settings, Deployment(source))
    old = read_tree(workdir)
    (source / "big").write_bytes(os.urandom(2_000_000))
    slow(monkeypatch, 100)
    pid = os.fork()
    if pid == 0:
        try:
            deploy(host, settings, Deployment(source))
        finally:
            os._exit(0)
    try:
        wait_until(lambda: staging(workdir) and children(pid), 20)
        (push,) = wait_until(lambda: [child for child in children(pid) if "rsync" in argv_of(child)[:1]], 10)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    wait_until(lambda: not argv_of(push), 5)
    monkeypatch.undo()
    assert read_tree(workdir) == old
    assert len(staging(workdir)) == 1
    assert results(deploy(host, settings, Deployment(source))) == ["deployed"]
    assert staging(workdir) == []
    assert os.listdir(settings.root / ".roomful" / "deploying") == []


def test_a_push_that_another_project_has_under_way_is_left_alone(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, workdir = hosts[:1], workdirs[0]
    other = make_tree(tmp_path / "other", {"other": "x"})
    (source / "big").write_bytes(os.urandom(1_000_000))
    done: list[Outcomes[Deployed]] = []
    slow(monkeypatch, 300)
    thread = threading.Thread(target=lambda: done.append(deploy(host, settings, Deployment(source))))
    thread.start()
    wait_until(lambda: workdir.exists() and pushes(workdir) and staging(workdir), 20)
    (held,) = pushes(workdir)
    os.kill(held, signal.SIGSTOP)
    monkeypatch.undo()
    second = settings.replace(root=settings.root.parent / "second")
    assert results(deploy(host, second, Deployment(other))) == ["deployed"]
    assert results(deploy(host, settings, Deployment(other))) == ["current"]
    (other / "other").write_text("y")
    assert results(deploy(host, settings, Deployment(other))) == ["deployed"]
    assert len(staging(workdir)) == 1
    os.kill(held, signal.SIGCONT)
    thread.join(30)
    assert results(done[0]) == ["deployed"]
    assert read_tree(workdir)["other"] == "y"
    assert (workdir / "big").stat().st_size == 1_000_000


@pytest.mark.parametrize(
    ("before", "version"),
    [
        ("        lock.renew(now=True)\n", "one"),
        ("        make_links(store, links)\n", "one"),
        ("        swap(store, name)\n", "one"),
        ("        remove_links(store, links)\n", "two"),
        ("        remove_cut_pushes(", "two"),
    ],
    ids=["verified", "renamed", "linked", "swapped", "tidied"],
)
def test_a_killed_commit_leaves_a_whole_version_and_the_next_deployment_does_not_wait_for_it(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    version: str,
) -> None:
    host, workdir = hosts[:1], workdirs[0]
    deploy(host, settings, Deployment(source))
    make_tree(source, {"run.py": "two", "new": "n"})
    real = host_program.program

    def stopping(name: str) -> str:
        step = before.replace("\n", "\\n").replace("'", "\\'")
        assert name != "commit" or step in real(name)
        return real(name).replace(step, "        os.kill(os.getpid(), 19)\\n" + step)

    done: list[Outcomes[Deployed]] = []
    with monkeypatch.context() as patch:
        patch.setattr(host_program, "program", stopping)
        thread = threading.Thread(target=lambda: done.append(deploy(host, settings, Deployment(source, delete=True))))
        thread.start()
        tokens = workdir / ".roomful" / "deploy" / "top" / "lock"

        def stopped() -> int:
            (token,) = os.listdir(tokens)
            pid = int(token.split(".")[1])
            return pid if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" else 0

        try:
            pid = wait_until(lambda: tokens.exists() and os.listdir(tokens) and stopped(), 20, lambda: done)
        finally:
            for token in os.listdir(tokens):
                os.kill(int(token.split(".")[1]), signal.SIGKILL)
        assert pid
        thread.join(20)
    assert done[0][0].status == "failed"
    whole = {"run.py": "one", "data/a": "a"} if version == "one" else {"run.py": "two", "new": "n"}
    seen = {name: content for name, content in read_tree(workdir).items() if not isinstance(content, Path)}
    assert seen == whole
    start = time.monotonic()
    deploy(host, settings, Deployment(source, delete=True))
    assert time.monotonic() - start < 10
    assert read_tree(workdir) == {"run.py": "two", "new": "n"}
    (source / "new").write_text("last")
    deploy(host, settings, Deployment(source, delete=True))
    assert staging(workdir) == []
    assert len(list((workdir / ".roomful/deploy/top/releases").glob("*.json"))) == 2


def test_a_source_that_changes_while_it_is_sent_is_never_made_current(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(hosts[:1], settings, Deployment(source))
    (source / "run.py").write_text("two")
    real = rsync.Rsync.push

    def push(self: rsync.Rsync, *args: object) -> rsync.Transferred:
        (source / "run.py").write_text(str(time.monotonic()))
        return real(self, *args)  # type: ignore[arg-type]  # whatever it was given

    monkeypatch.setattr(rsync.Rsync, "push", push)
    outcome = deploy(hosts[:1], settings, Deployment(source))[0]
    assert (outcome.reason, outcome.detail) == ("differs", "run.py changed while it was sent; run deploy again")
    assert (workdirs[0] / "run.py").read_text() == "one"


def test_another_content_of_the_same_size_and_time_is_noticed(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    """As where an editor keeps the time, or the filesystem knows no fractions of seconds."""
    os.utime(source / "run.py", (1_000_000_000, 1_000_000_000))
    deploy(hosts[:1], settings, Deployment(source))
    (source / "run.py").write_text("eno")
    os.utime(source / "run.py", (1_000_000_000, 1_000_000_000))
    assert results(deploy(hosts[:1], settings, Deployment(source))) == ["deployed"]
    assert (workdirs[0] / "run.py").read_text() == "eno"


def test_a_login_shell_that_talks_is_named_as_the_cause(
    hosts: tuple[Host, ...], settings: Settings, rootless_lab: Lab, source: Path
) -> None:
    home = rootless_lab.host_directory(hosts[0].name) / "home"
    saved = (home / ".bashrc").read_bytes() if (home / ".bashrc").exists() else None
    (home / ".bashrc").write_text("echo welcome\n")
    try:
        outcome = deploy(hosts[:1], settings, Deployment(source))[0]
    finally:
        (home / ".bashrc").unlink() if saved is None else (home / ".bashrc").write_bytes(saved)
    if outcome.status == "ok":
        pytest.skip("this account's shell reads no .bashrc over SSH")
    assert "the login shell there prints something" in outcome.detail


def test_an_interrupt_ends_every_push_and_the_next_run_clears_up_even_where_nothing_is_to_do(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(hosts, settings, Deployment(source))
    other = make_tree(source.parent / "other", {"big": ""})
    (other / "big").write_bytes(os.urandom(2_000_000))
    slow(monkeypatch, 100)

    def interrupt() -> None:
        wait_until(lambda: all(staging(workdir) and pushes(workdir) for workdir in workdirs), 20)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcomes = deploy(hosts, settings, Deployment(other))
    thread.join()
    assert [outcome.reason for outcome in outcomes] == ["interrupted"] * 3
    assert [pid for workdir in workdirs for pid in pushes(workdir)] == []
    assert all(staging(workdir) for workdir in workdirs)
    monkeypatch.undo()
    assert results(deploy(hosts, settings, Deployment(source))) == ["current"] * 3
    assert [name for workdir in workdirs for name in staging(workdir)] == []
    assert os.listdir(settings.root / ".roomful" / "deploying") == []
