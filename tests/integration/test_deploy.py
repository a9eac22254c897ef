"""Deployments with real rsync to real SSH servers: what arrives, what is sent, and what is refused."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from roomful import host_program
from roomful.deploy import Deployment, deploy
from roomful.errors import InputError, MissingProgram
from roomful.folders import create_folders
from roomful.hosts import Host, parse_host
from roomful.settings import Settings
from tests.support.deploying import hosts, results, settings, slow, source, staging, workdirs
from tests.support.lab import lab, rootless_lab
from tests.support.workdirs import make_tree, read_tree

__all__ = ["hosts", "lab", "rootless_lab", "settings", "source", "workdirs"]

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
