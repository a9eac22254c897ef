"""A real agent and a real Valkey: tasks run, their ends and outputs come back, and nothing is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import GONE_SECONDS, PATIENCE, Room, a_room, alive, pid_in
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    """One room with one agent, for tests that break nothing."""
    with a_room() as room:
        room.start("one", cpus=4)
        yield room


@pytest.fixture
def room(shared: Room) -> Iterator[Room]:
    """The shared room, without the tasks of the test before."""
    yield shared
    shared.queue.cancel()
    assert shared.queue.wait(timeout=PATIENCE)
    shared.queue.configure(dict.fromkeys(name.partition("@")[0] for name in shared.queue.settings()))
    shared.queue.reset()


def test_a_task_runs_in_the_workdir_with_its_own_environment_and_group(room: Room) -> None:
    ids = "ps -o pgid= -p $$; echo $$"
    (record,) = room.run(f"pwd; env; read x || echo no input; {ids}", env={"MINE": "é"})
    out = room.queue.output(record.id).head.decode()
    lines = out.splitlines()
    assert lines[0] == str(room.folder / "work-one")
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name: environment[name] for name in environment if name.startswith(("ROOMFUL_", "MINE"))} == {
        "MINE": "é",
        "ROOMFUL_TASK_ID": str(record.id),
        "ROOMFUL_ATTEMPT": "1",
        "ROOMFUL_HOST": "one",
        "ROOMFUL_SLOT": "1",
        "ROOMFUL_AGENT": (room.folder / "agent-one" / "instance").read_text().strip(),
    }
    assert "no input" in lines
    assert lines[-2].split() == [lines[-1]], "it leads a group of its own"
    assert "secret-of-agents" not in out
    assert (record.state, record.exit_code, record.reason, record.host) == ("done", 0, "", "one")
    assert record.claimed_ms <= record.started_ms <= record.ended_ms
    assert 0 < record.seconds < PATIENCE


@pytest.mark.parametrize(
    ("command", "reason", "exit_code", "number"),
    [("exit 3", "exit 3", 3, None), ("kill -9 $$", "signal 9", None, 9), ("no-such-program", "exit 127", 127, None)],
)
def test_a_failure_has_its_reason(
    room: Room, command: str, reason: str, exit_code: int | None, number: int | None
) -> None:
    (record,) = room.run(f"echo before >&2; {command}")
    assert (record.state, record.reason, record.exit_code, record.signal) == ("failed", reason, exit_code, number)
    assert room.queue.output(record.id, "stderr").head.startswith(b"before\n")


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"cwd": "no/such/folder"}, "no/such/folder"), ({"stdin": "no-such-file"}, "no-such-file")],
)
def test_a_task_that_cannot_start_says_why(room: Room, fields: dict[str, str], said: str) -> None:
    (record,) = room.run("true", **fields)
    assert (record.state, record.reason) == ("failed", "error")
    assert said in record.detail


def test_commands_and_outputs_keep_every_byte(room: Room) -> None:
    weird = bytes(range(1, 256)).replace(b"'", b"").replace(b"\n", b"")
    command = os.fsdecode(b"printf %s '") + weird.decode("utf-8", "surrogateescape") + "'; printf '\\0\\377' >&2"
    (record,) = room.run(command)
    assert room.queue.output(record.id).head == weird
    assert room.queue.output(record.id, "stderr").head == b"\0\xff"
    assert record.spec.command == command


def test_a_large_output_is_whole_on_the_client_and_its_ends_are_in_the_queue(room: Room) -> None:
    size = 50 * 1024 * 1024
    (record,) = room.run(f"head -c {size} /dev/urandom | tee copy; echo end >&2")
    output = room.queue.output(record.id)
    copy = (room.folder / "work-one" / "copy").read_bytes()
    assert (output.size, output.host) == (size, "one")
    assert hashlib.sha256(Path(output.path).read_bytes()).digest() == hashlib.sha256(copy).digest()
    assert (output.head, output.tail) == (copy[: 32 * 1024], copy[-32 * 1024 :])
    assert room.queue.output(record.id, "stderr").head == b"end\n"
    peak = int(Path(f"/proc/{room.worker_pid()}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak < 100_000, "KiB: the agent does not hold outputs in memory"


def test_a_large_output_goes_when_its_task_is_forgotten(room: Room) -> None:
    (gone,) = room.run("head -c 100000 /dev/zero # gone")
    (kept,) = room.run("head -c 100000 /dev/zero # kept")
    paths = [Path(room.queue.output(record.id).path) for record in (gone, kept)]
    assert [path.stat().st_size for path in paths] == [100000] * 2
    room.queue.forget([gone.id])
    # Looked at twice a minute, and when settings change.
    room.queue.configure({"kill_grace_seconds": 1})
    wait_until(lambda: not paths[0].exists(), PATIENCE, room.log)
    assert paths[1].exists()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537])
def test_the_border_of_inline_output_is_exact(room: Room, size: int) -> None:
    (record,) = room.run(f"head -c {size} /dev/zero | tr '\\0' x")
    output = room.queue.output(record.id)
    assert output.size == size
    assert output.head + output.tail == b"x" * min(size, 65536)
    assert bool(output.path) == (size > 65536)


def test_python_tasks_run_scripts_and_functions(room: Room) -> None:
    work = room.folder / "work-one"
    (work / "script.py").write_text("import sys; print(sys.argv[1:])\n")
    (work / "module.py").write_text(
        "import sys\ndef add(a, b=2): return {'sum': a + 10 * b}\n"
        "def nothing(): print('called')\ndef interpreter(): return sys.executable\n"
    )
    commands = [
        "script.py 'one word' two",
        'module:add {"b": 4, "a": 2}',
        "module:add [1, 3]",
        "module:nothing",
        "module:interpreter",
        "module:gone",
    ]
    records = room.run(*commands, kind="python")
    outputs = [room.queue.output(record.id).head for record in records]
    own = json.dumps(sys.executable).encode() + b"\n"
    assert outputs == [b"['one word', 'two']\n", b'{"sum": 42}\n', b'{"sum": 31}\n', b"called\n", own, b""]
    assert [record.state for record in records] == ["done"] * 5 + ["failed"]
    (bad,) = room.run("module:add {not json", kind="python")
    assert "not JSON" in bad.detail


def test_a_timeout_ends_the_whole_task(room: Room) -> None:
    marker = room.folder / "work-one" / "pid"
    (record,) = room.run(f"trap '' TERM; sleep 600 & echo $! > {marker}; wait; sleep 600", timeout=0.5)
    assert (record.state, record.reason) == ("failed", "timeout")
    assert record.seconds < PATIENCE
    wait_until(lambda: not alive(pid_in(marker)), GONE_SECONDS)


@pytest.mark.parametrize(
    "escape",
    [
        "sleep 600 &",
        "setsid sleep 600 &",
        "setsid sh -c 'setsid sleep 600 & sleep 0.2' &",
        "env -i setsid sleep 600 &",
    ],
)
def test_what_a_task_leaves_behind_goes_with_it(room: Room, escape: str) -> None:
    program = room.folder / "work-one" / "my-sleep"
    with contextlib.suppress(FileExistsError):
        program.symlink_to("/bin/sleep")
    command = escape.replace("sleep 600", f"{program} 600")
    (record,) = room.run(f"{command} sleep 0.3; exit 0")
    assert record.state == "done"
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if uses(path, program)]
    wait_until(lambda: not any(alive(pid) for pid in pids), GONE_SECONDS, lambda: pids)


def test_a_daemon_lives_as_long_as_the_task_that_forked_it(room: Room) -> None:
    work = room.folder / "work-one"
    markers, go = [work / "daemon-in-session", work / "daemon-without-environment"], work / "daemons-may-go"
    fork = "{0} sh -c 'sh -c \"echo \\$\\$ > {1}; exec sleep 600\" & sleep 0.2'"
    forks = [fork.format(how, marker) for how, marker in zip(("setsid", "env -i setsid"), markers, strict=True)]
    (task_id,) = room.submit(f"{'; '.join(forks)}; while [ ! -e {go} ]; do sleep 0.05; done")
    pids = [pid_in(marker) for marker in markers]
    time.sleep(2.5)
    assert [alive(pid) for pid in pids] == [True, True], "the agent has looked at least twice meanwhile"
    go.touch()
    assert room.queue.wait([task_id], timeout=PATIENCE)
    wait_until(lambda: not any(alive(pid) for pid in pids), GONE_SECONDS)


def uses(process: Path, program: Path) -> bool:
    """Whether a process runs this program."""
    try:
        return os.fsencode(program) in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def test_a_cancelled_task_is_killed(room: Room) -> None:
    marker = room.folder / "work-one" / "cancelled"
    (task_id,) = room.submit(f"echo $$ > {marker}; sleep 600")
    pid = pid_in(marker)
    assert room.queue.cancel([task_id]) == 1
    wait_until(lambda: not alive(pid), PATIENCE)
    assert room.queue.task(task_id).state == "cancelled"  # type: ignore[union-attr]
    (record,) = room.run("echo still working")
    assert record.state == "done"


def test_running_tasks_never_ask_for_more_than_the_host_has(room: Room) -> None:
    work = room.folder / "work-one"
    script = "touch running.$ROOMFUL_TASK_ID; ls running.* | wc -l; sleep 0.1; rm running.$ROOMFUL_TASK_ID"
    records = room.run(*(f"{script} # {number}" for number in range(12)), cpus=2)
    most = max(int(room.queue.output(record.id).head) for record in records)
    assert most == 2, "4 CPUs carry two at a time, and do"
    assert not list(work.glob("running.*"))


def test_running_tasks_never_ask_for_more_memory_than_the_host_has(own: Room) -> None:
    own.start(cpus=4, memory_bytes=512 * 1024 * 1024)
    script = f"touch {own.folder}/running.$ROOMFUL_TASK_ID; ls {own.folder}/running.* | wc -l; sleep 0.1"
    script += f"; rm {own.folder}/running.$ROOMFUL_TASK_ID"
    needs = {"memory_bytes": 240 * 1024 * 1024, "cpus": 0.5}
    records = own.run(*(f"{script} # {number}" for number in range(12)), **needs)
    assert max(int(own.queue.output(record.id).head) for record in records) == 2


def test_what_has_a_higher_priority_starts_first(room: Room) -> None:
    room.queue.drain(["one"])
    for priority in (0, 9, -3, 4):
        room.submit(f"sleep 0.02; echo {priority}", priority=priority, cpus=4)
    room.queue.drain(["one"], resume=True)
    assert room.queue.wait(timeout=PATIENCE)
    records = sorted(room.queue.tasks(), key=lambda record: record.started_ms)
    assert [record.spec.priority for record in records] == [9, 4, 0, -3]


def test_a_second_start_changes_nothing(room: Room) -> None:
    pid = room.guard_pid()
    reply = room.command("agent", "--config", "-", given=json.dumps(room.config("one")))
    assert reply == {"state": "running", "pid": pid}
    status = room.command("status", "--directory", str(room.folder / "agent-one"))
    assert (status["state"], status["pid"], status["agent"]) == ("running", pid, room.client("one").agent)


def test_secrets_are_in_no_command_line_and_no_open_file(room: Room) -> None:
    for pid in (room.guard_pid(), room.worker_pid()):
        assert b"secret-of-agents" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"secret-of-agents" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert "secret-of-agents" not in room.log()
    for path in (room.folder / "agent-one").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.is_socket(), path


def test_tasks_see_nothing_of_the_login_that_started_the_agent(own: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["SSH_AUTH_SOCK", "SSH_CONNECTION", "INVOKE_ROOMFUL_SERVER_URL", "ROOMFUL_PASSWORD"]
    for name in names:
        monkeypatch.setenv(name, "not-for-tasks")
    monkeypatch.setenv("MINE", "for-tasks")
    own.start()
    (record,) = own.run("env")
    said = own.queue.output(record.id).head
    assert b"not-for-tasks" not in said
    assert b"for-tasks" in said
    assert b"secret-of-agents" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": ""}, "'host' is missing"),
        ({"speed": 3}, "unknown name 'speed'"),
        ({"slots": -1}, "bad value of 'slots'"),
    ],
)
def test_a_bad_configuration_is_refused(room: Room, change: dict[str, object], said: str) -> None:
    reply = room.command("agent", "--config", "-", given=json.dumps({**room.config("two"), **change}))
    assert said in reply["refused"]["what"]


def test_drained_hosts_finish_and_take_nothing_new(room: Room) -> None:
    room.submit("sleep 0.5")
    wait_until(lambda: room.queue.counts().running == 1, PATIENCE)
    room.queue.drain(["one"])
    room.submit("true")
    wait_until(lambda: room.queue.counts().done == 1, PATIENCE)
    time.sleep(0.3)
    assert room.queue.counts().todo == 1
    room.queue.drain(["one"], resume=True)
    wait_until(lambda: room.queue.counts().done == 2, PATIENCE)


def test_short_tasks_are_taken_ahead_and_a_long_one_frees_the_rest(room: Room) -> None:
    room.run(*(f"true # {number}" for number in range(300)))
    ids = room.submit("sleep 600", *(f"sleep 60 # {number}" for number in range(20)))
    wait_until(lambda: room.queue.counts().running == 4, PATIENCE, lambda: room.queue.clients())
    time.sleep(1.5)
    assert room.queue.counts().running == 4, "only what runs is held"
    assert room.queue.task(ids[0]).state == "running"  # type: ignore[union-attr]


def test_a_clock_that_is_set_takes_no_output_away(own: Room) -> None:
    """As when a host starts in 1970 and learns the time later: what it wrote before looks very old."""
    own.start()
    kept, forgotten = (record.id for record in own.run("seq 20000", "seq 20001"))
    spool = own.folder / "agent-one" / "spool"
    files = {task_id: spool / f"{task_id}.1.stdout" for task_id in (kept, forgotten)}
    for path in files.values():
        os.utime(path, (0, 0))
    own.queue.forget([forgotten])
    # A change of settings has the spool tidied at once.
    own.queue.configure({"retries": 1})
    wait_until(lambda: not files[forgotten].exists(), PATIENCE)
    assert files[kept].read_bytes().endswith(b"\n20000\n")


def test_an_agent_stays_in_no_folder_of_its_tasks(room: Room) -> None:
    """It would keep a file system from being unmounted."""
    room.run("mkdir -p inner", *(f"echo {number}" for number in range(3)))
    [record] = room.run("sleep 0.1", cwd="inner")
    assert record.state == "done"
    assert Path(f"/proc/{room.worker_pid()}/cwd").resolve() == Path("/")


def test_who_tidies_up_tmp_leaves_an_agents_folder_alone(own: Room) -> None:
    own.start()
    own.run("seq 30000")
    folder = own.folder / "agent-one"
    before = {path for path in folder.rglob("*") if not path.name.startswith(".")}
    assert folder / "spool" / "1.1.stdout" in before
    # This is how systemd-tmpfiles asks.
    with pytest.raises(BlockingIOError):
        fcntl.flock(handle := os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
    if shutil.which("systemd-tmpfiles"):
        rules = own.folder / "tmpfiles.conf"
        rules.write_text(f"e {own.folder} - - - 1s\nx {own.folder}/[!a]*\n")
        time.sleep(1.5)
        subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True, capture_output=True)
    assert before <= set(folder.rglob("*"))
