"""Task files into a real queue, run by a real agent, their results delivered."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.deliverer import Deliverer
from roomful.deliveries import DeliveryBook
from roomful.errors import InputError, TaskFileError
from roomful.queue import Queue
from roomful.settings import Settings
from roomful.submission import Submission, SubmitCut, SubmitOptions, submit
from roomful.waiting import Waited, wait
from tests.support.agents import PATIENCE, Room, Scripted, a_room
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    """One server and one agent for all tests here."""
    with a_room() as room:
        room.start("one", cpus=2.0, memory_bytes=2**30)
        yield room


@pytest.fixture
def queue(room: Room) -> Queue:
    """A queue without tasks; the agent stays registered."""
    room.queue.cancel()
    wait_until(lambda: room.client("one").running == 0, PATIENCE)
    room.queue.reset()
    return room.queue


@pytest.fixture
def empty() -> Iterator[Queue]:
    """A queue that nobody works for."""
    with a_room() as room:
        yield room.queue


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Settings(root=tmp_path)


def given(queue: Queue, data: bytes, settings: Settings, **options: object) -> Submission:
    """Submit a task file from memory, as from standard input."""
    return submit(queue, io.BytesIO(data), settings, SubmitOptions(**options), with_ids=True)  # type: ignore[arg-type]


def finished(queue: Queue, sent: Submission, settings: Settings) -> Waited:
    """Wait for a submission."""
    return wait(queue, sent, settings, lambda _: None)


def stdout(queue: Queue, task_id: int) -> bytes:
    return queue.output(task_id).head


@pytest.mark.parametrize(
    "data",
    [
        b"true\n" * 5000 + b"ec\0ho\n",
        b"shell:0:0:1:true\n" * 5000 + b"shell:0:0:1:\n",
        b'{"command": "true"}\n' * 3000 + b'{"command": true}\n',
        b"shell:0:0:1:true\nshell:0:0:3:true\n",
        b"shell:0:0:1:true\nshell:0:2:1:true\n",
    ],
    ids=["plain", "distcomp", "json", "too many CPUs", "too much memory"],
)
def test_nothing_is_added_unless_every_line_is_good(queue: Queue, settings: Settings, data: bytes) -> None:
    before = queue.last_id()
    with pytest.raises(TaskFileError, match=r"standard input:\d+: "):
        given(queue, data, settings)
    assert queue.last_id() == before
    assert queue.counts().total == 0


@pytest.mark.parametrize("paths", [b"a\n", b"a\na\n", b"a\nsub/\n"], ids=["too few", "twice", "folder"])
def test_nothing_is_added_unless_every_result_path_is_good(queue: Queue, settings: Settings, paths: bytes) -> None:
    Path("paths").write_bytes(paths)
    with pytest.raises(TaskFileError, match=r"^paths"):
        given(queue, b"echo 1\necho 2\n", settings, results=Path("paths"))
    with pytest.raises(InputError, match="--results-are-files needs --results FILE"):
        given(queue, b"echo 1\necho 2\n", settings, results_are_files=True)
    assert queue.counts().total == 0
    assert DeliveryBook(settings).batches() == []


def test_a_command_runs_with_the_bytes_that_the_file_has(queue: Queue, settings: Settings) -> None:
    sent = given(queue, b"printf %s '\xff\xfe \\ \"$x\" \xc3\xa9\x01'\n", settings)
    assert finished(queue, sent, settings).succeeded
    assert sent.line_ids is not None
    assert stdout(queue, sent.line_ids[0]) == b'\xff\xfe \\ "$x" \xc3\xa9\x01'


def test_json_tasks_run_as_they_say(room: Room, queue: Queue, settings: Settings) -> None:
    work = room.folder / "work-one"
    (work / "sub").mkdir(exist_ok=True)
    (work / "sub" / "in.txt").write_text("input")
    (work / "script.py").write_text("import sys; print(sys.argv[1:])")
    (work / "module.py").write_text("def double(x): return 2 * x")
    lines = b"""\
{"command": "cat; printf %s \\"$A$B\\"; pwd", "cwd": "sub", "stdin": "in.txt", "env": {"A": "x y", "B": 5}}
{"python": "script.py", "args": ["a b", "'", 7]}
{"python": "module:double", "kwargs": {"x": [1, "\xc3\xa9"]}}
{"command": "sleep 30", "timeout": "300ms"}
"""
    sent = given(queue, lines, settings)
    state = finished(queue, sent, settings)
    assert sent.line_ids is not None
    outputs = [stdout(queue, task_id) for task_id in sent.line_ids]
    assert outputs[0] == b"inputx y5" + bytes(work / "sub") + b"\n"
    assert outputs[1] == b"['a b', \"'\", '7']\n"
    assert outputs[2] == b'[1, "\\u00e9", 1, "\\u00e9"]\n'
    assert state.failed == {sent.line_ids[3]}
    record = queue.task(sent.line_ids[3])
    assert record
    assert record.reason == "timeout"


def test_duplicates_are_skipped_counted_and_waited_for(queue: Queue, settings: Settings) -> None:
    first = given(queue, b"echo 1\necho 2\necho 1\n", settings)
    assert (first.report.added, first.report.skipped) == (2, 1)
    assert first.sentence.endswith("(2 added, 1 duplicate skipped)")
    assert first.line_ids is not None
    one, two, again = first.line_ids
    assert one == again != two
    assert finished(queue, first, settings).done == {one, two}
    second = given(queue, b"echo 2\necho 3\n", settings)
    assert second.line_ids == (two, two + 1)
    assert finished(queue, second, settings).done == {two, two + 1}
    third = given(queue, b"echo 2\n", settings)
    assert third.sentence == "no new tasks (0 added, 1 duplicate skipped)"
    assert finished(queue, third, settings).succeeded
    forced = given(queue, b"echo 2\necho 2\n", settings, allow_duplicates=True)
    assert (forced.report.added, forced.report.skipped) == (2, 0)


def test_a_failed_task_is_no_duplicate_and_is_reported(queue: Queue, settings: Settings) -> None:
    first = finished(queue, given(queue, b"exit 3\ntrue\n", settings), settings)
    assert (len(first.done), len(first.failed), first.succeeded) == (1, 1, False)
    second = given(queue, b"exit 3\ntrue\n", settings)
    assert (second.report.added, second.report.skipped) == (1, 1)
    assert finished(queue, second, settings).failed == set(second.report.ids)


def test_results_go_to_their_paths(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    Path("paths").write_bytes(b"out/a\nout/b\nout/c\nout/d\n")
    sent = given(queue, b"printf '1\\377'\necho 2\nexit 1\nprintf '1\\377'\n", settings, results=Path("paths"))
    # All have ended before the wait begins: it meets them as duplicates, and again in the log.
    assert queue.wait(sent.line_ids, timeout=PATIENCE)
    state = finished(queue, sent, settings)
    assert (state.deliveries.delivered, len(state.failed)) == (3, 1)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert contents == {"a": b"1\xff", "b": b"2\n", "d": b"1\xff"}
    # The failed task's result may still come.
    [left] = DeliveryBook(settings).batches()
    assert [item.path.name for item in left.pending] == ["c"]
    report = Deliverer(queue, settings).deliver_all()
    assert (report.delivered, report.failed, report.problems) == (0, 1, [])


def test_results_are_delivered_later_and_only_once(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    Path("paths").write_bytes(b"a\nb\n")
    sent = given(queue, b"echo 1\necho 2; sleep 0.6\n", settings, results=Path("paths"))
    assert sent.line_ids is not None
    assert queue.wait([sent.line_ids[0]], timeout=PATIENCE)
    first = Deliverer(queue, settings).deliver_all()
    assert (first.delivered, first.waiting) == (1, 1)
    (tmp_path / "a").write_text("mine now")
    assert queue.wait([sent.line_ids[1]], timeout=PATIENCE)
    assert Deliverer(queue, settings).deliver_all().delivered == 1
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("mine now", "2\n")
    assert DeliveryBook(settings).batches() == []
    # The same file again: everything is done already, and goes to the new paths at once.
    Path("paths").write_bytes(b"c\nd\n")
    again = given(queue, b"echo 1\necho 2; sleep 0.6\n", settings, results=Path("paths"))
    assert finished(queue, again, settings).deliveries.delivered == 2
    assert ((tmp_path / "c").read_text(), (tmp_path / "d").read_text()) == ("1\n", "2\n")


def test_a_result_that_cannot_be_written_is_tried_again(queue: Queue, settings: Settings, tmp_path: Path) -> None:
    Path("paths").write_bytes(b"sub/a\n")
    sent = given(queue, b"echo 1\n", settings, results=Path("paths"))
    (tmp_path / "sub").write_text("in the way")
    state = finished(queue, sent, settings)
    assert not state.succeeded
    assert "cannot write it: Not a directory" in state.deliveries.problems[0].why
    (tmp_path / "sub").unlink()
    assert Deliverer(queue, settings).deliver_all().delivered == 1
    assert (tmp_path / "sub" / "a").read_text() == "1\n"


def test_another_queues_tasks_are_not_delivered(empty: Queue, settings: Settings, tmp_path: Path) -> None:
    """Ids start at 1 again in a new queue: what task 1 does tells that it is another one."""
    Path("paths").write_bytes(b"a\nb\n")
    given(empty, b"echo 1\necho 2\n", settings, results=Path("paths"))
    empty.scripts._client.flushall()
    agent = Scripted(empty, "h")
    given(empty, b"echo other\n", settings, allow_waiting=True)
    [(task_id, attempt)] = agent.claim()
    assert task_id == 1
    agent.finish(task_id, attempt, stdout=b"wrong")
    report = Deliverer(empty, settings).deliver_all()
    assert [item.why for item in report.problems] == ["the queue has no such task any more"] * 2
    assert not (tmp_path / "a").exists()
    assert DeliveryBook(settings).batches() == []


def test_many_tasks_at_once(empty: Queue, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_bytes(b"".join(b"./simulate --seed=%d\n" % number for number in range(50_000)))
    heard: list[tuple[int, int]] = []
    sent = submit(empty, path, settings, progress=lambda taken, total: heard.append((taken, total)))
    assert sent.sentence == "submitted tasks 1-50000 (50000 added, 0 duplicates skipped)"
    assert sent.warnings == ("no client is there yet: the tasks wait for inv start-clients",)
    assert sent.document()["ids"] == "1-50000"
    assert heard[-1] == (50_000, 50_000)
    assert [record.spec.command for record in empty.tasks(ids=[1, 50_000])] == [
        "./simulate --seed=0",
        "./simulate --seed=49999",
    ]


def test_tasks_that_vanish_while_waited_for(empty: Queue, settings: Settings) -> None:
    sent = given(empty, b"echo 1\necho 2\n", settings)
    agent = Scripted(empty, "h")
    [(task_id, attempt)] = agent.claim()
    agent.finish(task_id, attempt)

    def forget(state: Waited) -> None:
        if empty.counts().total:
            empty.reset()

    state = wait(empty, sent, settings, forget)
    assert (len(state.done), state.succeeded) == (1, False)
    assert "1 removed from the queue" in state.sentence


@pytest.mark.parametrize(
    ("cut", "allow_duplicates", "exit_code", "why", "fix"),
    [
        ("Ctrl-C", False, 130, "interrupted", "submit it again: what is queued is skipped"),
        ("Ctrl-C", True, 130, "interrupted", "see which with: inv tasks"),
        (
            "no memory",
            False,
            1,
            "make room with inv collect and inv forget --done",
            "submit it again: what is queued is skipped",
        ),
    ],
    ids=["Ctrl-C", "Ctrl-C with duplicates", "no memory"],
)
def test_what_is_cut_in_the_middle_says_how_far_it_came(
    empty: Queue, settings: Settings, cut: str, allow_duplicates: bool, exit_code: int, why: str, fix: str
) -> None:
    lines = b"".join(b"./simulate --seed=%d\n" % number for number in range(20_000))
    Path("many.txt").write_bytes(lines)
    client = empty.scripts._client

    def heard(taken: int, total: int) -> None:
        if taken == 3000 and cut == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)
        elif taken == 3000:
            client.config_set("maxmemory", "1mb")

    options = SubmitOptions(allow_duplicates=allow_duplicates)
    try:
        with pytest.raises(SubmitCut) as caught:
            submit(empty, "many.txt", settings, options, progress=heard)
    except KeyboardInterrupt:
        pytest.fail("it says nothing")
    finally:
        client.config_set("maxmemory", "0")
    said, there = str(caught.value), empty.counts().todo
    assert caught.value.exit_code == exit_code
    counted = re.match(r"many\.txt: the queue has taken at least (\d+) of 20000 tasks: ", said)
    assert counted
    assert 3000 <= int(counted[1]) <= there < 20_000
    assert why in said
    assert said.endswith(f"; {fix}")
    again = submit(empty, "many.txt", settings, SubmitOptions())
    assert again.report.added == 20_000 - there
