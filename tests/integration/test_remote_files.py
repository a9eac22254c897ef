"""Single files from real hosts: every byte or nothing, and each failure with its reason."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from roomful import deliverer, results
from roomful import lab as labs
from roomful.agent.task import TaskSpec, encode_task
from roomful.connection import LOST_AFTER_MS
from roomful.deliverer import Deliverer
from roomful.deliveries import DeliveryBook, digest_of
from roomful.errors import RoomfulError
from roomful.lab import Lab
from roomful.lab.netns import call_inside
from roomful.queue import Queue
from roomful.remote_files import KEEPALIVE_SECONDS, Fetched, Wanted, fetch, host_of_label, stream
from roomful.results import save, task_folder
from roomful.settings import Settings
from tests.support.agents import Scripted, a_room
from tests.support.lab import lab, rootless_lab, settings_for, ssh, two
from tests.support.server import processes_of
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab", "two"]

pytestmark = pytest.mark.integration

#: Larger than a frame, a read and a channel's window; holds every byte.
BIG = bytes(range(256)) * 12_000
#: A file name with what shells and protocols stumble over, and a byte that is no UTF-8.
ODD = 'it\'s "a" $name\n\udcff'


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    return settings_for(rootless_lab, tmp_path / "project", workdir=str(tmp_path / "work"))


@pytest.fixture
def work(settings: Settings) -> Path:
    """The workdir: hosts of a rootless lab share this machine's files."""
    folder = Path(settings.workdir)
    (folder / "sub").mkdir(parents=True)
    (folder / "big").write_bytes(BIG)
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / ODD).write_bytes(b"odd")
    os.mkfifo(folder / "pipe")
    return folder


def label(lab: Lab, number: int = 0) -> str:
    return lab.entries[number].label


def one(found: list[Fetched]) -> Fetched:
    [fetched] = found
    return fetched


def test_files_arrive_byte_for_byte(rootless_lab: Lab, settings: Settings, work: Path, tmp_path: Path) -> None:
    names = ["big", "empty", f"sub/{ODD}", str(work / "big")]
    first = [Wanted(key, name, tmp_path / "a" / str(key), 1_700_000_000_000) for key, name in enumerate(names)]
    second = [Wanted(9, "big", tmp_path / "b")]
    connected: list[str] = []
    found = fetch(
        {label(rootless_lab): first, label(rootless_lab, 1): second},
        settings,
        before_connecting=lambda hosts: connected.extend(host.label for host in hosts),
    )
    assert connected == [label(rootless_lab), label(rootless_lab, 1)]
    assert [(item.wanted.key, item.error) for item in found] == [(0, ""), (1, ""), (2, ""), (3, ""), (9, "")]
    assert [(tmp_path / "a" / str(key)).read_bytes() for key in range(4)] == [BIG, b"", b"odd", BIG]
    assert (tmp_path / "b").read_bytes() == BIG
    assert (tmp_path / "a" / "0").stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nosuch", "No such file or directory"),
        ("sub", "Is a directory"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("big/x", "Not a directory"),
        ("", "Is a directory"),
    ],
)
def test_what_is_no_file_is_named_and_harms_no_other(
    rootless_lab: Lab, settings: Settings, work: Path, tmp_path: Path, name: str, says: str
) -> None:
    wanted = [Wanted(0, "big", tmp_path / "a"), Wanted(1, name, tmp_path / "bad"), Wanted(2, "big", tmp_path / "c")]
    found = fetch({label(rootless_lab): wanted}, settings)
    assert [item.error for item in found] == ["", says, ""]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "c"]


def test_a_place_that_cannot_be_written_harms_no_other(
    rootless_lab: Lab, settings: Settings, work: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    wanted = [Wanted(0, "big", tmp_path / "file" / "x"), Wanted(1, "big", tmp_path / "c")]
    found = fetch({label(rootless_lab): wanted}, settings)
    assert [item.error for item in found] == [f"cannot write {tmp_path / 'file' / 'x'}: Not a directory", ""]
    assert (tmp_path / "c").read_bytes() == BIG


def test_a_host_that_cannot_be_reached_is_named(
    rootless_lab: Lab, settings: Settings, work: Path, tmp_path: Path
) -> None:
    found = fetch(
        {"127.0.0.1:1": [Wanted(0, "big", tmp_path / "a")], label(rootless_lab): [Wanted(1, "big", tmp_path / "b")]},
        settings,
    )
    assert [(item.error.split(":")[0], item.reached) for item in found] == [("refused", False), ("", True)]
    assert not (tmp_path / "a").exists()
    with pytest.raises(RoomfulError, match=r"127.0.0.1:1: cannot fetch big: refused.*try again when the host is up"):
        stream("127.0.0.1:1", "big", lambda _: None, settings)


def test_a_transfer_that_breaks_leaves_nothing_half_done(
    rootless_lab: Lab, settings: Settings, work: Path, tmp_path: Path
) -> None:
    """The program on the host dies in the middle of the second file."""
    (work / "huge").write_bytes(b"")
    os.truncate(work / "huge", 64 << 30)
    wanted = [Wanted(0, "big", tmp_path / "a"), Wanted(1, "huge", tmp_path / "b"), Wanted(2, "big", tmp_path / "c")]
    killed: list[int] = []

    def kill_in_the_second() -> None:
        wait_until(lambda: (tmp_path / "a").exists(), 30)
        for pid in processes_of(work):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill_in_the_second)
    thread.start()
    found = fetch({label(rootless_lab): wanted}, settings)
    thread.join()
    assert killed
    assert [bool(item.error) for item in found] == [False, True, True]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a"]


@pytest.mark.root
def test_a_host_that_loses_its_power_while_it_sends_is_noticed(two: Lab, tmp_path: Path) -> None:
    """It says nothing any more, and nothing that we have sent is unanswered."""
    assert ssh(two, "lab01", "mkdir -p roomful && truncate -s 20G roomful/endless").returncode == 0
    settings, local = settings_for(two, tmp_path), tmp_path / "here" / "endless"
    found: list[Fetched] = []

    def work() -> None:
        wanted = {"lab01": [Wanted(1, "endless", local)]}
        found.extend(call_inside(two.netns, lambda: fetch(wanted, settings)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: local.parent.exists() and list(local.parent.iterdir()), 20)
    # Its disk hangs: all that it has sent is acknowledged.
    assert ssh(two, "lab01", "pkill -STOP python3").returncode == 0
    sizes: list[int] = []

    def quiet() -> bool:
        sizes.append(next(iter(local.parent.iterdir())).stat().st_size)
        return len(sizes) > 5 and len(set(sizes[-5:])) == 1

    wait_until(quiet, 20, pause=0.3)
    labs.fail(two.name, "lab01", "poweroff")
    thread.join(LOST_AFTER_MS / 1000 + 4 * KEEPALIVE_SECONDS)
    assert not thread.is_alive(), "it waits for ever"
    assert one(found).error
    assert list(local.parent.iterdir()) == []


def test_a_file_is_streamed(rootless_lab: Lab, settings: Settings, work: Path) -> None:
    pieces: list[bytes] = []
    stream(label(rootless_lab), "big", pieces.append, settings)
    assert b"".join(pieces) == BIG
    with pytest.raises(RoomfulError, match="cannot read nosuch: No such file or directory"):
        stream(label(rootless_lab), "nosuch", pieces.append, settings)


def test_a_label_finds_its_list_entry(rootless_lab: Lab, settings: Settings) -> None:
    assert host_of_label(label(rootless_lab), settings) == rootless_lab.entries[0]
    assert host_of_label(label(rootless_lab), settings).attributes == rootless_lab.entries[0].attributes
    assert host_of_label("user@unlisted:2200", settings).port == 2200


@pytest.fixture
def queue() -> Iterator[Queue]:
    with a_room() as room:
        yield room.queue


def spilled(queue: Queue, task_id: int, stream: str, path: Path) -> None:
    """Make a task's output one that is too large for the queue: only its ends are there."""
    size = path.stat().st_size
    queue.scripts._client.hset(queue.keys.prefix + stream, str(task_id), b"%d %b\nheadtail" % (size, bytes(path)))


def test_large_outputs_are_saved_and_delivered(
    rootless_lab: Lab, settings: Settings, work: Path, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[set[str]] = []

    def counting(wanted: Mapping[str, Sequence[Wanted]], *args: Any, **options: Any) -> list[Fetched]:
        tried.append(set(wanted))
        return fetch(wanted, *args, **options)

    monkeypatch.setattr(results, "fetch", counting)
    monkeypatch.setattr(deliverer, "fetch", counting)
    queue.submit([TaskSpec("one"), TaskSpec("two")])
    agents = [Scripted(queue, label(rootless_lab)), Scripted(queue, "127.0.0.1:1")]
    for agent in agents:
        [(task_id, attempt)] = agent.claim()
        agent.finish(task_id, attempt, stdout=b"x")
        spilled(queue, task_id, "stdout", work / "big")
    payloads = [b"1,1,1\n\n\none", b"1,1,1\n\n\ntwo"]
    entries = [(n + 1, digest_of(payload), tmp_path / f"result{n + 1}") for n, payload in enumerate(payloads)]
    DeliveryBook(settings).add(entries, as_files=False)
    saved = save(queue, tmp_path / "results", settings)
    assert (task_folder(tmp_path / "results", 1) / "stdout").read_bytes() == BIG
    assert [(item.task_id, item.stream) for item in saved.missing] == [(2, "stdout")]
    assert saved.missing[0].why.startswith("127.0.0.1:1: refused")
    assert (tmp_path / "result1").read_bytes() == BIG
    assert not (tmp_path / "result2").exists()
    assert [(item.task_id, item.why.split(": ")[2]) for item in saved.deliveries.problems] == [(2, "refused")]
    # The dead host cost one deadline, not one for outputs and one for results.
    assert tried == [{label(rootless_lab), "127.0.0.1:1"}, {label(rootless_lab)}]
    again = save(queue, tmp_path / "results", settings)
    assert (again.kept, len(again.missing), again.deliveries.delivered) == (1, 1, 0)


def test_results_that_are_files(
    rootless_lab: Lab, settings: Settings, work: Path, queue: Queue, tmp_path: Path
) -> None:
    specs = [TaskSpec(str(number), cwd="sub" if number == 1 else "") for number in range(4)]
    (work / "sub" / "big").write_bytes(b"of sub")
    queue.submit(specs)
    agent = Scripted(queue, label(rootless_lab))
    for printed in (b"working\nbig\n", b"big", b"", b"nosuch\n"):
        [(task_id, attempt)] = agent.claim()
        agent.finish(task_id, attempt, stdout=printed)
    entries = [(n + 1, digest_of(encode_task(spec)), tmp_path / "out" / str(n + 1)) for n, spec in enumerate(specs)]
    DeliveryBook(settings).add(entries, as_files=True)
    report = Deliverer(queue, settings).deliver_all()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"1": BIG, "2": b"of sub"}
    assert [(item.task_id, item.why) for item in report.problems] == [
        (3, "the task printed no path (--results-are-files)"),
        (4, f"{label(rootless_lab)}: {work}/nosuch: No such file or directory"),
    ]
