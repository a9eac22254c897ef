"""Deployments with real rsync to real SSH servers: what arrives, what is sent, and what a kill leaves behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful import host_program, rsync
from roomful.deploy import Deployed, Deployment, deploy
from roomful.errors import InputError, MissingProgram
from roomful.folders import create_folders
from roomful.hosts import Host, parse_host, resolve
from roomful.lab import Lab
from roomful.outcome import Outcomes
from roomful.settings import Settings
from tests.support.lab import lab, rootless_lab, settings_for
from tests.support.processes import argv_of, children
from tests.support.waiting import wait_until
from tests.support.workdirs import make_tree, read_tree

__all__ = ["lab", "rootless_lab"]

ODD_NAMES = [
    b"sp ace",
    b"-dash",
    b"#hash",
    b"new\nline",
    b'quo"te',
    b"it's",
    b"\xff\xfe",
    b"$(touch x)`y`",
    b"a\\b",
    b"*",
]


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path, program: Callable[[str], str]) -> Settings:
    program("rsync")
    # A workdir with a name that a shell would take apart, and no other test's.
    return settings_for(rootless_lab, tmp_path / "project", workdir=f"~/w ork$'{os.urandom(4).hex()}")


@pytest.fixture
def hosts(settings: Settings) -> tuple[Host, ...]:
    return resolve("lab", settings)


@pytest.fixture
def workdirs(rootless_lab: Lab, settings: Settings) -> list[Path]:
    name = settings.workdir.removeprefix("~/")
    return [rootless_lab.host_directory(host.name) / "home" / name for host in rootless_lab.hosts]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "a source", {"run.py": "one", "data/a": "a"})


def results(outcomes: Outcomes[Deployed]) -> list[str]:
    return [
        f"{outcome.value.result}" if outcome.value else f"{outcome.reason}: {outcome.detail}" for outcome in outcomes
    ]


def staging(workdir: Path) -> list[str]:
    return os.listdir(workdir / ".roomful" / "deploy" / "top" / "staging")


def test_everything_arrives_as_it_is(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    for name in ODD_NAMES:
        path = os.fsencode(source) + b"/" + name
        Path(os.fsdecode(path)).write_bytes(name)
        os.mkdir(os.fsencode(source) + b"/data/" + name)
    (source / "run.py").chmod(0o4750)
    (source / "data" / "empty").mkdir(mode=0o555)
    (source / "link").symlink_to("data/a")
    (source / ".git").mkdir()
    outcomes = deploy(hosts, settings, Deployment(source))
    assert results(outcomes) == ["deployed"] * 3
    for workdir in workdirs:
        for name in ODD_NAMES:
            assert Path(os.fsdecode(os.fsencode(workdir) + b"/" + name)).read_bytes() == name
            assert os.path.isdir(os.fsencode(workdir) + b"/data/" + name)
        assert (workdir / "run.py").stat().st_mode & 0o7777 == 0o750
        assert (workdir / "link").read_text() == "a"
        assert os.readlink(workdir / ".roomful/deploy/top/current/link") == "data/a"
        assert (workdir / "data" / "empty").is_dir()
        assert set(os.listdir(os.fsencode(workdir))) == {*ODD_NAMES, b"run.py", b"data", b"link", b".roomful"}


def test_the_second_time_only_the_difference_is_sent(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    (source / "data" / "big").write_bytes(os.urandom(2_000_000))
    first = deploy(hosts, settings, Deployment(source))
    assert all(outcome.value and outcome.value.bytes_sent > 2_000_000 for outcome in first)
    assert results(deploy(hosts, settings, Deployment(source))) == ["current"] * 3
    (source / "run.py").write_text("two")
    second = deploy(hosts, settings, Deployment(source))
    assert results(second) == ["deployed"] * 3
    assert [outcome.value.files_sent for outcome in second if outcome.value] == [1] * 3
    assert all(outcome.value and outcome.value.bytes_sent < 2_000 for outcome in second)
    assert [(workdir / "run.py").read_text() for workdir in workdirs] == ["two"] * 3


def test_of_a_large_file_only_the_blocks_that_changed_are_sent(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    big = source / "data" / "big"
    big.write_bytes(os.urandom(2_000_000))
    assert results(deploy(hosts, settings, Deployment(source))) == ["deployed"] * 3
    with big.open("r+b") as file:
        file.seek(1_000_000)
        file.write(os.urandom(100))
    second = deploy(hosts, settings, Deployment(source))
    assert results(second) == ["deployed"] * 3
    assert all(outcome.value and outcome.value.bytes_sent < 50_000 for outcome in second)
    assert [(workdir / "data" / "big").read_bytes() for workdir in workdirs] == [big.read_bytes()] * 3


def test_of_one_large_file_bytes_are_told_while_it_goes(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (source / "data" / "big").write_bytes(os.urandom(2_000_000))
    slow(monkeypatch, 1000)
    told: list[int] = []
    assert results(deploy(hosts[:2], settings, Deployment(source), on_bytes=told.append)) == ["deployed"] * 2
    assert told == sorted(told)
    assert len({count for count in told if 0 < count < 4_000_000}) >= 3
    assert 4_000_000 <= told[-1] < 4_100_000


def test_a_single_file_into_a_folder_with_an_odd_name(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    assert results(deploy(hosts[:1], settings, Deployment(source / "run.py", dest="co de/$x"))) == ["deployed"]
    assert read_tree(workdirs[0]) == {"co de/$x/run.py": "one"}


def test_patterns_leave_files_out_on_all_hosts(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    make_tree(source, {"a.o": "", "b/c.o": "", "b/d": "d", "data/x": "", "b/data/y": "y"})
    deploy(hosts, settings, Deployment(source, exclude=("*.o", "/data")))
    assert read_tree(workdirs[2]) == {"b/d": "d", "b/data/y": "y"}


def test_folders_are_made_where_they_are_asked_for(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    deploy(hosts, settings, Deployment(source))
    (workdirs[2] / "out").write_text("a file")
    old = os.umask(0o022)
    try:
        outcomes = create_folders(hosts, settings, ["out/a b/c", "data/new", "data"], 0o750)
        again = create_folders(hosts[:2], settings, ["./out//a b/c/"])
    finally:
        os.umask(old)
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "failed"]
    assert outcomes[0].value
    assert (outcomes[0].value.created, outcomes[0].value.existed) == (("out/a b/c", "data/new"), ("data",))
    for name in ("out", "out/a b", "out/a b/c", "data/new", "data"):
        assert (workdirs[0] / name).stat().st_mode & 0o777 == 0o750, name
    assert workdirs[0].stat().st_mode & 0o777 == 0o755
    assert outcomes[2].reason == "in-the-way"
    assert "out is there, and is no folder" in outcomes[2].detail
    assert not (workdirs[2] / "data" / "new").exists()
    assert again[0].value
    assert again[0].value.existed == ("out/a b/c",)


def test_bad_hosts_do_not_hinder_the_others(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path
) -> None:
    workdirs[1].mkdir(parents=True)
    (workdirs[1] / "run.py").write_text("mine")
    outcomes = deploy([*hosts, parse_host("127.0.0.1:1")], settings, Deployment(source))
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "unreachable"]
    assert [outcome.reason for outcome in outcomes.not_ok] == ["in-the-way", "refused"]
    assert (workdirs[1] / "run.py").read_text() == "mine"
    replaced = deploy(hosts, settings, Deployment(source, replace=True))
    assert results(replaced) == ["current", "deployed", "current"]
    assert replaced[1].value
    assert replaced[1].value.notes == (f"moved to .roomful/replaced: {workdirs[1] / 'run.py'}",)


def test_bad_input_is_refused_before_any_host_is_touched(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], source: Path, tmp_path: Path
) -> None:
    for deployment in (
        Deployment(tmp_path / "nowhere"),
        Deployment(source, dest="/abs"),
        Deployment(source, dest="a/../.."),
        Deployment(source, exclude=("",)),
    ):
        with pytest.raises(InputError):
            deploy(hosts, settings, deployment)
    with pytest.raises(InputError):
        create_folders(hosts, settings, ["ok", "../bad"])
    (source / "data" / "a").chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(InputError, match="Permission denied"):
            deploy(hosts, settings, Deployment(source))
    assert not any(workdir.exists() for workdir in workdirs)


def test_without_rsync_or_patchwork_here_the_command_that_brings_it_is_named(
    hosts: tuple[Host, ...], settings: Settings, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(MissingProgram, match="apt-get install rsync"):
            deploy(hosts, settings, Deployment(source))
    monkeypatch.setitem(sys.modules, "patchwork.transfers", None)
    monkeypatch.setitem(sys.modules, "patchwork", None)
    with pytest.raises(MissingProgram, match=r"pip install --no-deps patchwork==1\.0\.1"):
        deploy(hosts, settings, Deployment(source))


def test_without_rsync_there_the_host_fails_with_that_reason(
    hosts: tuple[Host, ...], settings: Settings, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = host_program.program
    monkeypatch.setattr(host_program, "program", lambda name: f"import os; os.environ['PATH'] = ''\n{real(name)}")
    outcomes = deploy(hosts[:1], settings, Deployment(source))
    assert (outcomes[0].reason, outcomes[0].detail) == ("no-program", "rsync is not installed there")


def test_hosts_that_share_a_disk_are_sent_it_once(
    hosts: tuple[Host, ...], settings: Settings, source: Path, tmp_path: Path
) -> None:
    (source / "data" / "big").write_bytes(os.urandom(300_000))
    shared = settings.replace(workdir=str(tmp_path / "nfs home" / "roomful"))
    for text in ("one", "two"):
        (source / "run.py").write_text(text)
        outcomes = deploy(hosts, shared, Deployment(source))
        assert outcomes.not_ok == ()
        values = [outcome.value for outcome in outcomes if outcome.value]
        assert [value.result for value in values] == ["deployed"] * 3
        senders = [outcome.host.label for outcome in outcomes if outcome.value and outcome.value.bytes_sent]
        assert len(senders) == 1
        assert sorted(value.shared_with for value in values) == ["", senders[0], senders[0]]
        assert read_tree(tmp_path / "nfs home" / "roomful" / "data")["a"] == "a"
        assert (tmp_path / "nfs home" / "roomful" / "run.py").read_text() == text
    assert results(deploy(hosts, shared, Deployment(source))) == ["current"] * 3


def test_two_controllers_at_once_leave_one_whole_version(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], tmp_path: Path
) -> None:
    trees = [{"run.py": name, f"{name}/x": name} for name in ("red", "blue")]
    sources = [make_tree(tmp_path / str(index), tree) for index, tree in enumerate(trees)]
    found: dict[int, list[str]] = {}

    def work(index: int) -> None:
        other = settings.replace(root=settings.root.parent / f"controller{index}")
        for _ in range(3):
            found.setdefault(index, []).extend(results(deploy(hosts, other, Deployment(sources[index], delete=True))))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result for results in found.values() for result in results} <= {"deployed", "current"}
    for workdir in workdirs:
        assert read_tree(workdir) in trees
        assert staging(workdir) == []


def slow(monkeypatch: pytest.MonkeyPatch, kilobytes: int) -> None:
    """Let each push take its time."""
    real = rsync.push_options
    monkeypatch.setattr("roomful.deploy.push_options", lambda *args: [*real(*args), f"--bwlimit={kilobytes}"])


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
