"""Collecting over real SSH servers with real rsync: what comes, what is not sent twice, and what a cut leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful import collect as collecting
from roomful import growth, rsync
from roomful.collect import Collected, collect
from roomful.deploy import Deployment, deploy
from roomful.hosts import Host, resolve
from roomful.lab import Lab
from roomful.outcome import Outcomes
from roomful.settings import Settings
from roomful.wanted import Declared, Wanted
from tests.support.deploying import hosts, settings, workdirs_of
from tests.support.lab import lab, rootless_lab
from tests.support.processes import argv_of, children
from tests.support.waiting import wait_until
from tests.support.workdirs import make_tree, read_tree

__all__ = ["hosts", "lab", "rootless_lab", "settings"]

ROOT = Path(__file__).parents[2]
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
def workdirs(rootless_lab: Lab, settings: Settings) -> list[Path]:
    """The hosts' workdirs, with something deployed and some outputs in them."""
    found = workdirs_of(rootless_lab, settings)
    source = make_tree(settings.root / "source", {"run.py": "code", "data/in": "in"})
    assert deploy(resolve("lab", settings), settings, Deployment(source)).not_ok == ()
    for index, workdir in enumerate(found):
        (workdir / "out" / "deep").mkdir(parents=True)
        (workdir / "out" / "deep" / "r.json").write_text(f"result {index}")
        (workdir / "data" / "made").write_text("made")
    return found


def values(outcomes: Outcomes[Collected]) -> list[Collected]:
    assert outcomes.not_ok == ()
    return [outcome.value for outcome in outcomes if outcome.value]


def test_outputs_come_back_to_a_folder_a_host_and_only_once(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]
) -> None:
    for name in ODD_NAMES:
        (Path(os.fsdecode(os.fsencode(workdirs[0]) + b"/out/" + name))).write_bytes(name)
    (workdirs[1] / "out" / "suid").write_text("x")
    (workdirs[1] / "out" / "suid").chmod(0o6755)
    (workdirs[1] / "etc").symlink_to("/etc")
    seen: list[str] = []
    first = values(collect(hosts, settings, on_outcome=lambda outcome: seen.append(outcome.host.name)))
    assert sorted(seen) == [host.name for host in hosts]
    assert [(value.files, value.files_new) for value in first] == [(12, 12), (3, 3), (2, 2)]
    assert first[1].skipped == ("etc",)
    results = settings.root / "results"
    assert read_tree(results / "lab03") == {"out/deep/r.json": "result 2", "data/made": "made"}
    for name in ODD_NAMES:
        assert Path(os.fsdecode(os.fsencode(results) + b"/lab01/out/" + name)).read_bytes() == name
    assert (results / "lab02" / "out" / "suid").stat().st_mode & 0o7000 == 0
    assert [path for path in results.rglob("*") if path.is_symlink() or path.name.startswith(".roomful")] == []
    (workdirs[2] / "out" / "more").write_text("more")
    again = values(collect(hosts, settings))
    assert [value.files_new for value in again] == [0, 0, 1]


def test_patterns_choose_what_comes(hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]) -> None:
    (workdirs[0] / "out" / "r.txt").write_text("text")
    found = values(collect(hosts, settings, Wanted(("out/*.txt", "none")), settings.root / "else where"))
    assert [value.files for value in found] == [1, 0, 0]
    assert read_tree(settings.root / "else where") == {"lab01/out/r.txt": "text"}


def test_hosts_that_share_a_disk_are_collected_once(
    hosts: tuple[Host, ...], settings: Settings, tmp_path: Path
) -> None:
    shared = settings.replace(workdir=str(tmp_path / "nfs"))
    make_tree(tmp_path / "nfs", {"out/x": "x"})
    found = values(collect(hosts, shared))
    assert [value.shared_with for value in found] == ["", "lab01", "lab01"]
    assert read_tree(settings.root / "results") == {"lab01/out/x": "x"}


def test_a_file_that_goes_away_meanwhile_hurts_nobody(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = collecting._listing

    def listing(answer: dict[str, Any]) -> Any:
        (workdirs[0] / "data" / "made").unlink(missing_ok=True)
        return real(answer)

    monkeypatch.setattr(collecting, "_listing", listing)
    values(collect(hosts[:1], settings))
    assert read_tree(settings.root / "results" / "lab01") == {"out/deep/r.json": "result 0"}


def test_a_host_that_names_files_elsewhere_gets_nothing_written(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = collecting.host_program.run

    def lying(connection: Any, name: str, request: Any) -> dict[str, Any]:
        answer = real(connection, name, request)
        if connection.entry.name == "lab02":
            from roomful.workdir.outputs import pack

            answer["files"] = pack({b"out/deep/r.json": 1, b"../../../escaped": 1})
        return answer

    monkeypatch.setattr(collecting.host_program, "run", lying)
    outcomes = collect(hosts, settings)
    assert [outcome.reason for outcome in outcomes] == [None, "protocol", None]
    assert sorted(os.listdir(settings.root / "results")) == ["lab01", "lab03"]


def slow(monkeypatch: pytest.MonkeyPatch, kilobytes: int) -> None:
    real = rsync.pull_options
    monkeypatch.setattr(rsync, "pull_options", lambda files: [*real(files), f"--bwlimit={kilobytes}"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_cut_collection_leaves_whole_files_only_and_is_taken_up(
    hosts: tuple[Host, ...],
    settings: Settings,
    workdirs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    small, big = os.urandom(200_000), os.urandom(1_500_000)
    (workdirs[0] / "out" / "a").write_bytes(small)
    (workdirs[0] / "out" / "z").write_bytes(big)
    folder = settings.root / "results" / "lab01" / "out"
    done: list[Outcomes[Collected]] = []
    with monkeypatch.context() as patch:
        slow(patch, 500)
        thread = threading.Thread(target=lambda: done.append(collect(hosts[:1], settings)))
        thread.start()

        def half() -> int:
            incoming = list((folder.parent / growth.INCOMING).glob("z.*"))
            return bool(incoming) and incoming[0].stat().st_size > 300_000

        wait_until(half, 20)
        pulls = [pid for pid in children(os.getpid()) if "rsync" in argv_of(pid)[:1]]
        receivers = [child for pid in pulls for child in children(pid) if "rsync" in argv_of(child)[:1]]
        for pid in [*pulls, *(receivers if how == signal.SIGKILL else [])]:
            os.kill(pid, how)
        thread.join(20)
    assert done[0][0].reason == "interrupted"
    assert (folder / "a").read_bytes() == small
    assert not (folder / "z").exists()
    (value,) = values(collect(hosts[:1], settings))
    assert (folder / "z").read_bytes() == big
    # After a kill that nothing could be saved from, only the file that was cut is sent again.
    assert value.files_new <= 2
    assert value.bytes_received < (1_300_000 if how == signal.SIGTERM else 1_600_000)
    assert [path for path in folder.parent.rglob("*") if ".roomful" in path.name] == []


def test_two_collections_into_one_folder_do_not_mix(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdirs[0] / "out" / "big").write_bytes(os.urandom(1_000_000))
    done: list[Outcomes[Collected]] = []
    with monkeypatch.context() as patch:
        slow(patch, 500)
        thread = threading.Thread(target=lambda: done.append(collect(hosts[:1], settings)))
        thread.start()
        incoming = settings.root / "results" / "lab01" / growth.INCOMING
        wait_until(lambda: incoming.exists() and list(incoming.iterdir()), 20)
    second = collect(hosts[:1], settings)[0]
    thread.join(20)
    assert (second.status, second.reason) == ("failed", "error")
    assert "another inv collect is writing" in second.detail
    assert done[0].not_ok == ()


def test_the_bytes_that_came_are_told(hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]) -> None:
    told: list[tuple[float, float]] = []

    def on_bytes(received: float, total: float, note: str) -> None:
        told.append((received, total))

    collect(hosts, settings, on_bytes=on_bytes)
    total = sum(len(f"result {index}made") for index in range(3))
    assert (told[0], told[-1]) == ((0, total), (total, total))
    (workdirs[0] / "data" / "more").write_text("more")
    told.clear()
    collect(hosts, settings, on_bytes=on_bytes)
    # What is here already is not to come.
    assert (told[0], told[-1]) == ((0, 4), (4, 4))


def test_of_one_large_file_bytes_are_told_while_it_comes(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdirs[0] / "out" / "big").write_bytes(os.urandom(2_000_000))
    slow(monkeypatch, 1000)
    told: list[float] = []
    values(collect(hosts[:1], settings, Wanted(("out/big",)), on_bytes=lambda done, total, note: told.append(done)))
    assert told == sorted(told)
    assert len({done for done in told if 0 < done < 2_000_000}) >= 3
    assert told[-1] == 2_000_000


def test_what_does_not_fit_on_the_disk_here_is_not_begun(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]
) -> None:
    # Sparse: it takes no room there.
    with (workdirs[0] / "out" / "huge").open("wb") as file:
        file.truncate(1 << 42)
    outcomes = collect(hosts, settings)
    assert [outcome.reason for outcome in outcomes] == ["disk-full", None, None]
    assert f"here: {settings.root / 'results' / 'lab01'} needs 4.0 TiB more, and " in outcomes[0].detail
    assert not (settings.root / "results" / "lab01").exists()


@pytest.fixture
def inv(settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    tasks = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n"
    (settings.root / "tasks.py").write_text(tasks)
    environment = {**os.environ, "INVOKE_ROOMFUL_WORKDIR": settings.workdir}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "invoke", *words]
        return subprocess.run(
            argv, cwd=settings.root, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return call


def test_the_tasks(
    inv: Callable[..., subprocess.CompletedProcess[str]], settings: Settings, rootless_lab: Lab
) -> None:
    make_tree(settings.root / "resources", {"run.py": "code", "x.o": "", "d/y": "y"})
    made = inv("create-folders", "out", "logs/a", "--hosts", "lab", "--mode", "750")
    assert made.returncode == 0, made.stderr
    assert "out logs/a" in made.stdout
    assert "3 hosts: 3 ok, 0 failed, 0 unreachable" in made.stderr
    deployed = inv("deploy", "--hosts", "lab", "--exclude", "*.o", "--exclude-hosts", "lab03", "--json")
    assert deployed.returncode == 0, deployed.stderr
    rows = json.loads(deployed.stdout)["hosts"]
    assert [(row["host"], row["result"], row["files_sent"]) for row in rows] == [
        ("lab01", "deployed", 2),
        ("lab02", "deployed", 2),
    ]
    workdir = rootless_lab.host_directory("lab01") / "home" / settings.workdir.removeprefix("~/")
    (workdir / "out" / "r").write_text("r")
    collected = inv("collect", "out", "./logs", "--hosts", "lab01", "--into", "back")
    assert collected.returncode == 0, collected.stderr
    assert read_tree(settings.root / "back") == {"lab01/out/r": "r"}
    nothing = inv("collect", "no/*", "run.py", "--hosts", "lab01,lab02")
    assert nothing.returncode == 0
    assert "no file matches 'no/*' 'run.py'; those that are as deploy put them there are not" in nothing.stderr
    (workdir / "new").mkdir()
    (settings.root / "resources" / "new").write_text("n")
    refused = inv("deploy", "--hosts", "lab")
    assert refused.returncode == 1
    assert "in-the-way" in refused.stdout
    assert "again on these: inv deploy --hosts=lab01" in refused.stderr
    assert inv("deploy", "--hosts", "lab", "--max-failed", "1").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["deploy", "nowhere"], "cannot read SOURCE"),
        (["deploy", "resources", "--dest", "/abs"], "bad --dest '/abs': it is absolute"),
        (["deploy", "resources", "--dest", "a/../b"], "it holds '..'"),
        (["deploy", "resources", "--exclude", "/"], "bad pattern '/'"),
        (["deploy", "bad"], "this link leads out of SOURCE: to /etc/passwd"),
        (["create-folders"], "no folder given"),
        (["create-folders", "../x"], "bad folder '../x'"),
        (["create-folders", "a\nb"], "it holds a control character"),
        (["create-folders", "x", "--mode", "999"], "bad --mode '999'"),
        (["collect", "/etc"], "bad path '/etc'"),
        (["collect", ".roomful"], ".roomful is Roomful's own"),
        (["deploy", "resources", "--hosts", "labb"], "did you mean lab?"),
        (["collect", "--into", "resources/run.py"], "resources/run.py: cannot make the folder to fill: File exists"),
        (["collect", "--into", "/proc/x"], "/proc/x: cannot make the folder to fill: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(
    inv: Callable[..., subprocess.CompletedProcess[str]], settings: Settings, words: list[str], says: str
) -> None:
    make_tree(settings.root / "resources", {"run.py": "code"})
    make_tree(settings.root / "bad", {"link": Path("/etc/passwd")})
    done = inv(*words, *([] if "--hosts" in words else ["--hosts", "lab"]))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr


def test_what_tasks_declared_comes_from_the_hosts_where_they_ran(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]
) -> None:
    declared = {
        "lab01": [Declared(1, "out"), Declared(2, "run.py"), Declared(3, "out/none"), Declared(4, "data/made")],
        "lab02": [Declared(5, "out/deep/r.json")],
    }
    outcomes = collect(hosts[:2], settings, Wanted(declared=declared))
    assert [(outcome.reason, outcome.detail) for outcome in outcomes] == [
        ("missing-output", "'out/none' of task 3"),
        (None, ""),
    ]
    assert outcomes[0].value is not None
    assert outcomes[0].value.files_new == 3
    results = read_tree(settings.root / "results")
    assert results == {
        "lab01/data/made": "made",
        "lab01/out/deep/r.json": "result 0",
        "lab01/run.py": "code",
        "lab02/out/deep/r.json": "result 1",
    }


def test_files_that_are_being_written_wait_for_another_time(
    hosts: tuple[Host, ...], settings: Settings, workdirs: list[Path]
) -> None:
    made = workdirs[0] / "out" / "open"
    long_ago = (1_000_000_000, 1_000_000_000)
    for path in (workdirs[0] / "data" / "made", workdirs[0] / "out" / "deep" / "r.json"):
        os.utime(path, long_ago)
    (workdirs[0] / "out" / "young").write_text("y")
    # For reading it may be open.
    with made.open("w") as writing, (workdirs[0] / "data" / "made").open() as reading:
        writing.write("half")
        writing.flush()
        os.utime(made, long_ago)
        values(collect(hosts[:1], settings, Wanted(settled=True)))
        assert reading.read() == "made"
    results = settings.root / "results" / "lab01"
    assert read_tree(results) == {"data/made": "made", "out/deep/r.json": "result 0"}
    values(collect(hosts[:1], settings))
    assert {"out/open", "out/young"} <= set(read_tree(results))
