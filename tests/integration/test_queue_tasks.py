"""The tasks about tasks as a user types them: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.agents import PATIENCE
from tests.support.queue_project import Project
from tests.support.terminal import shown
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def project(queue_project: Project) -> Project:
    return queue_project


def test_submit_and_wait(project: Project) -> None:
    project.write("tasks.txt", "echo 1\n# a comment\necho 2\n")
    assert project.ok("submit", "tasks.txt").endswith("(2 added, 0 duplicates skipped)\n")
    lines = project.ok("submit", "tasks.txt", "--wait").splitlines()
    assert lines[0] == "no new tasks (0 added, 2 duplicates skipped)"
    assert lines[1].startswith("2 done, 0 failed in ")
    assert "(2 added, 0 duplicates skipped)" in project.ok("submit", "tasks.txt", "--allow-duplicates")
    again = json.loads(project.ok("submit", "-", "--json", "--wait", given=b"echo 3\n"))
    assert (again["file"], again["added"], again["done"], again["failed"]) == ("standard input", 1, 1, 0)


def test_failed_tasks_are_named_with_what_to_do(project: Project) -> None:
    project.write("tasks.txt", "exit 3\ntrue\nexit 4\n")
    done = project.inv("submit", "tasks.txt", "--wait")
    first = project.room.queue.last_id() - 2
    assert done.returncode == 1
    assert b"1 done, 2 failed in " in done.stdout
    ids = f"{first},{first + 2}"
    assert done.stderr.decode() == (
        f"2 of 3 tasks failed: {ids}; what they said: inv logs {ids} --stderr; try again: inv retry {ids}\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["submit"], "no task file given; give a file, or - for standard input: inv submit tasks.txt"),
        (["submit", "nosuch.txt"], "nosuch.txt: cannot read the task file: No such file or directory"),
        (
            ["submit", "bad.txt"],
            "bad.txt:2: only 3 of the 5 fields in 'shell:1:2'; write shell:PRIORITY:MIN_DRAM_GIB",
        ),
        (
            ["submit", "wide.txt"],
            "wide.txt:1: needs 3 CPUs: the largest host, one, has 2 CPUs and 1.0 GiB; ask for less",
        ),
        (["submit", "good.txt", "--memory=4"], "--memory: size '4' has no unit; write 4GiB or 4MB"),
        (["submit", "good.txt", "--results=good.txt"], "good.txt: 1 result paths"),
        (["submit", "good.txt", "--format=jsonl", "--each-line"], "--each-line and --format contradict each other"),
        (
            ["tasks", "--state=finished"],
            "--state: unknown state 'finished'; use todo, running, done, failed, cancelled",
        ),
        (["tasks", "--match=("], "bad pattern '('"),
        (["tasks", "--limit=-1"], "bad --limit -1"),
        (["logs"], "no tasks given; write task ids: 5, or 1,3-8, or last, or all"),
        (["logs", "99999"], "no task 99999"),
        (["retry"], "no tasks chosen; give either a selection of tasks or --failed, as in: inv retry 1,3-8"),
        (["cancel", "3", "--all"], "too much was chosen; give either a selection of tasks or --all"),
        (["forget", "5-3"], "bad task selection '5-3': 5 is above 3"),
        (["requeue", "--host=nosuch"], "no client 'nosuch': the clients are one; see: inv status"),
        (["requeue"], "no client ''"),
        (["drain", "--hosts=nosuch"], "no client 'nosuch'"),
        (["reset"], "there is no terminal to ask on; give --yes if you mean it"),
        (["clients-config", "slotz=4"], "unknown setting 'slotz'"),
        (["status", "--watch"], "--watch draws on a terminal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(project: Project, words: Sequence[str], says: str) -> None:
    project.write("good.txt", "echo 1\necho 2\n" if "--results=good.txt" not in words else "echo 1\n")
    project.write("bad.txt", "shell:1:2:1:x\nshell:1:2\n")
    project.write("wide.txt", "shell:1:0:3:x\n")
    if words == ["reset"]:
        project.room.submit("true")
    if words == ["submit", "good.txt", "--results=good.txt"]:
        project.write("two.txt", "echo 1\necho 2\n")
        words = ["submit", "two.txt", "--results=good.txt"]
    before = project.room.queue.counts().total
    assert project.refused(*words).startswith(says)
    assert project.room.queue.counts().total == before


def test_no_server_is_said_with_what_to_do(project: Project, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "inv status: the server does not run; start it with: inv start-server\n"


def test_logs_are_exact_and_streams_stay_apart(project: Project) -> None:
    data = b"\xff\x00\r\n\x1b[31m" + bytes(range(256))
    project.write("data.bin", data)
    [record] = project.room.run(f"cat {project.folder}/data.bin; cat {project.folder}/data.bin >&2; printf end >&2")
    done = project.inv("logs", str(record.id))
    assert (done.returncode, done.stdout, done.stderr) == (0, data, data + b"end")
    assert project.inv("logs", "last", "--stderr").stdout == data + b"end"
    first, second = project.room.run("echo first", "echo second")
    assert project.ok("logs", f"{first.id}-{second.id}") == "first\nsecond\n"


def test_logs_of_a_task_that_has_not_ended(project: Project) -> None:
    [task_id] = project.room.submit("sleep 60")
    wait_until(lambda: project.room.queue.counts().running == 1, PATIENCE)
    assert project.refused("logs", str(task_id), code=1).startswith(
        f"task {task_id} is running on one; what a task writes"
    )
    assert project.ok("cancel", "--all") == "1 task cancelled\n"
    assert project.inv("logs", str(task_id)).returncode == 0


def test_tasks_are_listed_and_filtered(project: Project) -> None:
    ids = [record.id for record in project.room.run("echo a", "exit 3", "printf 'b\\n\\033[0m'")]
    rows = project.table("tasks")
    assert [row[0] for row in rows] == [str(task_id) for task_id in ids]
    assert [row[1] for row in rows] == ["done", "failed", "done"]
    assert rows[1][5] == "exit 3"
    assert "\x1b" not in project.ok("tasks")
    assert [row[0] for row in project.table("tasks", "--state=failed")] == [str(ids[1])]
    assert [row[0] for row in project.table("tasks", "--match=^(echo|exit)", "--exclude-match=t 3")] == [str(ids[0])]
    assert [row[0] for row in project.table("tasks", "all", "--state=failed")] == [str(ids[1])]
    assert project.table("tasks", "--host=nobody") == []
    assert len(project.table("tasks", "--host=one")) == 3
    assert [row[0] for row in project.table("tasks", f"{ids[1]},last")] == [str(ids[1]), str(ids[2])]
    done = project.inv("tasks", "--limit=2", "--json")
    document = json.loads(done.stdout)
    assert ([task["id"] for task in document["tasks"]], document["more"]) == (ids[:2], True)
    assert document["tasks"][1]["exit_code"] == 3
    assert b"there are more than 2; show all with --limit=0" in project.inv("tasks", "--limit=2").stderr


def test_retry_cancel_forget_and_reset(project: Project) -> None:
    ids = [record.id for record in project.room.run("exit 3", "exit 4", "true")]
    assert project.ok("retry", str(ids[0])) == "1 task again in the queue\n"
    assert project.room.queue.wait(ids, timeout=PATIENCE)
    assert json.loads(project.ok("retry", "--failed", "--json")) == {"retried": 2}
    assert project.room.queue.wait(ids, timeout=PATIENCE)
    assert project.room.queue.task(ids[0]).attempt == 3  # type: ignore[union-attr]
    assert project.ok("forget", "--done") == "1 task forgotten\n"
    assert project.ok("forget", f"{ids[0]}-{ids[2]}") == "2 tasks forgotten\n"
    project.room.submit("sleep 60", "sleep 61", "sleep 62", "sleep 63")
    # What was taken ahead waits again.
    wait_until(lambda: project.room.queue.counts().running == 2, PATIENCE, lambda: project.room.queue.counts())
    assert project.ok("cancel", "last") == "1 task cancelled\n"
    assert project.ok("cancel", "--all") == "3 tasks cancelled\n"
    assert project.ok("reset", "--yes") == "4 tasks removed\n"
    assert project.room.queue.counts().total == 0
    wait_until(lambda: project.room.client("one").running == 0, PATIENCE)


def test_drain_and_requeue(project: Project) -> None:
    queue = project.room.queue
    [task_id] = project.room.submit("sleep 60")
    wait_until(lambda: queue.counts().running == 1, PATIENCE)
    assert project.ok("drain", "--hosts=one") == "one: finish what they run and take nothing new (1 changed)\n"
    assert project.table("status")[-1][:2] == ["one", "draining"]
    assert project.ok("requeue", "--host=one") == "1 task of one again in the queue\n"
    wait_until(lambda: queue.clients()[0].running == 0, PATIENCE)
    assert queue.counts().todo == 1
    assert json.loads(project.ok("drain", "--hosts=one", "--undo", "--json")) == {"hosts": ["one"], "changed": 1}
    [record] = wait_until(lambda: list(queue.tasks("running")), PATIENCE)
    assert (record.id, record.attempt) == (task_id, 2)
    assert [entry.reason for entry in record.tries] == ["stopped"]


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 2), (b"\n", 1, 2), (b"y\n", 0, 0)])
def test_reset_asks(project: Project, answer: bytes, code: int, left: int) -> None:
    project.room.queue.drain(["one"])
    project.room.submit("true", "false")
    asked = on_terminal(project, "reset")
    read_until(asked, "remove all 2 tasks and what they wrote? [y/N]")
    os.write(asked.terminal, answer)
    assert asked.process.wait(timeout=30) == code
    os.close(asked.terminal)
    assert project.room.queue.counts().total == left


def test_status(project: Project) -> None:
    project.room.run("true", "exit 1")
    lines = project.ok("status").splitlines()
    assert lines[0] == "2 tasks: 0 todo, 0 running, 1 done, 1 failed"
    assert lines[-1].split()[:2] == ["one", "live"]
    document = json.loads(project.ok("status", "--json"))
    assert (document["done"], document["failed"], document["clients"][0]["host"]) == (1, 1, "one")


def test_clients_config_shows_and_changes(project: Project) -> None:
    rows = project.table("clients-config", "max_losses=5", "memory_accept=64MiB")
    assert {row[0]: row[1] for row in rows} == {"max_losses": "5", "memory_accept": "64.0 MiB"}
    try:
        values = {
            item["name"]: item["values"] for item in json.loads(project.ok("clients-config", "--json"))["settings"]
        }
        assert values["max_losses"] == {"": "5"}
        assert values["memory_accept"] == {"": str(64 * 2**20)}
        assert values["slots"] == {}
    finally:
        project.ok("clients-config", "max_losses=", "memory_accept=")
    assert project.room.queue.settings() == {}


def test_settings_for_a_host_list_are_for_its_hosts(project: Project) -> None:
    (project.folder / "host_lists").mkdir()
    project.write("host_lists/office.txt", "desk1\ndesk2\n")
    words = ["nice=0", "max_load=3", "while_idle=on"]
    rows = project.table("clients-config", *words, "--hosts=office")
    try:
        assert {row[0]: row[3] for row in rows} == {
            "nice": "desk1: 0, desk2: 0",
            "max_load": "desk1: 3, desk2: 3",
            "while_idle": "desk1: on, desk2: on",
        }
        assert [row[1] for row in rows] == ["0", "off", "10"], "all others have the defaults"
    finally:
        project.ok("clients-config", "nice=", "max_load=", "while_idle=", "--hosts=office")
    assert project.room.queue.settings() == {}


def test_ctrl_c_leaves_the_tasks_running(project: Project) -> None:
    project.write("tasks.txt", "sleep 61\nsleep 62\n")
    waiting = project.start("submit", "tasks.txt", "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: project.room.queue.counts().running == 2, PATIENCE)
    # It is in the wait as soon as it has said what it submitted.
    assert waiting.stdout
    assert b"submitted tasks" in waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, stderr = waiting.communicate(timeout=30)
    # A shell sees 130 in both cases; CPython ends by the signal where it met it in an exec() of text (dataclasses).
    assert waiting.returncode in (130, -signal.SIGINT)
    assert stderr.decode() == (
        "the tasks go on; watch them: inv status --watch; wait for them again: inv submit tasks.txt --wait\n"
    )
    assert project.room.queue.counts().running == 2


def test_a_terminal_gets_a_bar_and_a_watch_in_place(project: Project) -> None:
    project.room.submit("sleep 60")
    watch = on_terminal(project, "status", "--watch")
    seen = read_until(watch, "1 running", "heartbeat")
    assert "one" in seen
    project.room.submit("sleep 61")
    seen += read_until(watch, "2 running", "heartbeat")
    on_screen = "\n".join(shown(seen))
    assert ("2 tasks: " in on_screen, "1 task: " in on_screen) == (True, False), on_screen
    assert on_screen.count("heartbeat") == 1, "in place of what was there before"
    os.write(watch.terminal, b"\x03")
    assert watch.process.wait(timeout=30) == 130
    os.close(watch.terminal)
    project.room.queue.cancel()
    project.write("tasks.txt", "".join(f"sleep 0.{number}\n" for number in range(50, 60)))
    bar = on_terminal(project, "submit", "tasks.txt", "--wait")
    seen = read_until(bar, "10 done, 0 failed")
    assert "/10" in seen
    assert bar.process.wait(timeout=30) == 0
    os.close(bar.terminal)


@dataclass
class OnTerminal:
    process: subprocess.Popen[bytes]
    terminal: int


def on_terminal(project: Project, *words: str) -> OnTerminal:
    """Start a command whose terminal we hold the other end of."""
    ours, theirs = pty.openpty()
    process = project.start(
        *words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=control
    )
    os.close(theirs)
    return OnTerminal(process, ours)


def control() -> None:
    """Make standard input the controlling terminal, so that ^C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(command: OnTerminal, *wanted: str) -> str:
    """Read what a command draws until all of these have been there."""
    seen = ""
    deadline = time.monotonic() + PATIENCE
    while not all(text in seen for text in wanted):
        assert time.monotonic() < deadline, seen
        if select.select([command.terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(command.terminal, 65536).decode(errors="replace")
            except OSError:
                break
    assert all(text in seen for text in wanted), seen
    return seen
