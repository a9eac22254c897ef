"""The server on this machine: one at a time, private, and back on the same data whatever was killed."""

from __future__ import annotations

import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roomful.agent.private import Lock
from roomful.bundle import build_bundle
from roomful.errors import ServerError
from roomful.queue import TaskSpec
from roomful.server import Server, ServerStatus, open_queue
from roomful.settings import Settings
from roomful.shipping import _GATE, bundled_valkey
from tests.support.server import commands, folder, processes_of, start, submit
from tests.support.waiting import wait_until

PYENV = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pyenv" / "versions"
ALL_PYTHONS = sorted(path for path in PYENV.glob("3.*/bin/python3"))
OLD_PYTHONS = [path for path in ALL_PYTHONS if int(path.parents[1].name.split(".")[1]) < 8]
PYTHONS = [path for path in ALL_PYTHONS if path not in OLD_PYTHONS]


def ready_again(project: Settings, name: str, old: int | None) -> ServerStatus:
    """Wait until the server is ready with another process of this name."""

    def look() -> ServerStatus | None:
        status = Server(project, None).status()
        return status if status.state == "ready" and status.pids[name] not in (None, old) else None

    return wait_until(look, 15, lambda: str(Server(project, None).status()))


def test_without_a_server_the_queue_says_how_to_start_one(project: Settings) -> None:
    with (
        pytest.raises(ServerError, match="the server does not run; start it with: inv start-server"),
        open_queue(project),
    ):
        pass
    assert not Server(project, None).status().running


def test_a_server_that_was_stopped_comes_back_with_its_tasks(project: Settings) -> None:
    start(project)
    submit(project, "echo one", "echo two")
    stopped = Server(project, None).stop()
    assert stopped.stopped
    assert stopped.data_bytes > 0
    with pytest.raises(ServerError, match="start it with"), open_queue(project):
        pass
    start(project)
    assert commands(project) == ["echo one", "echo two"]


def test_stopping_what_does_not_run_is_no_error(project: Settings) -> None:
    assert not Server(project, None).stop().stopped


def test_a_second_start_finds_the_first(project: Settings) -> None:
    first = start(project)
    again, already = Server(project, None).start()
    assert already
    assert again.pids == first.pids
    assert not again.outdated


def test_starts_at_the_same_time_make_one_server(project: Settings) -> None:
    """Separate processes, as two users' terminals would: the race is for a file, not for a thread's lock."""
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom roomful.server import Server\n"
        "from roomful.settings import Settings\n"
        "settings = Settings(root=Path(sys.argv[1]), server_directory=sys.argv[2])\n"
        "status, already = Server(settings, None).start()\nprint(json.dumps([already, dict(status.pids)]))\n"
    )
    argv = [sys.executable, "-c", program, str(project.root), project.server_directory]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: subprocess.run(argv, capture_output=True, check=True, text=True), range(4)))
    replies = [json.loads(run.stdout) for run in runs]
    assert sorted(already for already, _ in replies) == [False, True, True, True]
    assert len({pids["valkey"] for _, pids in replies}) == 1
    assert len([line for line in processes_of(folder(project)).values() if "supervise" in line]) == 1


def test_forget_leaves_nothing_and_touches_nothing_else(project: Settings) -> None:
    start(project)
    (folder(project) / "mine.txt").write_text("not roomful's")
    assert Server(project, None).stop(forget=True).forgotten
    assert [path.name for path in folder(project).iterdir()] == ["mine.txt"]
    (folder(project) / "mine.txt").unlink()
    start(project)
    Server(project, None).stop(forget=True)
    assert not folder(project).exists()
    assert not (project.root / ".roomful" / "server.json").exists()


def test_everything_is_the_owners_alone_and_nothing_listens(project: Settings) -> None:
    status = start(project)
    for path in [folder(project), *folder(project).iterdir()]:
        if not path.is_symlink() and path.suffix != ".pyz":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    valkey = status.pids["valkey"]
    inodes = {os.readlink(f"/proc/{valkey}/fd/{fd}") for fd in os.listdir(f"/proc/{valkey}/fd")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{valkey}/net/{table}").read_text().splitlines()[1:]:
            assert f"socket:[{line.split()[9]}]" not in inodes


def test_passwords_are_in_one_private_file_only(project: Settings) -> None:
    status = start(project)
    passwords = json.loads((folder(project) / "passwords.json").read_text())
    assert all(len(password) == 64 for password in passwords.values())
    secrets = [password.encode() for password in passwords.values()]
    for pid in status.pids.values():
        for name in ("cmdline", "environ"):
            assert not any(secret in Path(f"/proc/{pid}/{name}").read_bytes() for secret in secrets)
    for path in folder(project).iterdir():
        if path.is_file() and path.name != "passwords.json":
            assert not any(secret in path.read_bytes() for secret in secrets), path


def test_the_daemons_keep_nothing_of_the_callers_environment(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret-of-the-shell")
    for pid in start(project).pids.values():
        assert b"secret-of-the-shell" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_daemons_are_free_of_the_terminal(project: Settings) -> None:
    for name, pid in start(project).pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert fields[4] == "0", f"{name} has a terminal"
        assert int(fields[3]) != os.getsid(0), f"{name} is in our session"


def test_the_default_user_and_an_agent_may_not_do_much(project: Settings) -> None:
    import redis

    socket = start(project).socket
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=socket).ping()
    passwords = json.loads((folder(project) / "passwords.json").read_text())
    forbidden = ["FLUSHALL", "SHUTDOWN NOSAVE", "CONFIG SET dir /tmp", "REPLICAOF NO ONE", "MODULE LIST"]
    for user, refused in (("agent", ["KEYS *", "ACL LIST", "CONFIG GET dir", "INFO"]), ("controller", [])):
        client = redis.Redis(unix_socket_path=socket, username=user, password=passwords[user])
        assert client.ping()
        for command in [*forbidden, *refused]:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        client.close()


def test_valkey_killed_comes_back_with_everything_that_was_acknowledged(project: Settings) -> None:
    valkey = start(project).pids["valkey"]
    submit(project, *(f"echo {number}" for number in range(1000)))
    assert valkey
    os.kill(valkey, signal.SIGKILL)
    status = ready_again(project, "valkey", valkey)
    assert status.restarts["valkey"] == 1
    assert len(commands(project)) == 1000


def test_a_command_meanwhile_waits_for_it(project: Settings) -> None:
    """Not one second of a restart is met as an error by who submits."""
    valkey = start(project).pids["valkey"]
    assert valkey
    with open_queue(project) as queue:
        os.kill(valkey, signal.SIGKILL)
        queue.submit([TaskSpec(command="true")])
        assert queue.counts().todo == 1


def test_the_keeper_killed_comes_back(project: Settings) -> None:
    first = start(project).pids
    assert first["keeper"]
    os.kill(first["keeper"], signal.SIGKILL)
    again = ready_again(project, "keeper", first["keeper"])
    assert again.pids["valkey"] == first["valkey"]


def test_the_supervisor_killed_takes_all_down_and_a_start_brings_all_back(project: Settings) -> None:
    first = start(project).pids
    submit(project, "echo kept")
    assert first["supervisor"]
    os.kill(first["supervisor"], signal.SIGKILL)
    status = start(project)
    assert not set(status.pids.values()) & set(first.values())
    assert commands(project) == ["echo kept"]
    assert len(processes_of(folder(project))) == 3


def test_a_frozen_valkey_without_its_supervisor_is_stopped_too(project: Settings) -> None:
    pids = start(project).pids
    assert pids["valkey"]
    assert pids["supervisor"]
    os.kill(pids["valkey"], signal.SIGSTOP)
    os.kill(pids["supervisor"], signal.SIGKILL)
    Server(project, None).stop()
    assert not processes_of(folder(project))


def test_a_frozen_valkey_is_stopped_by_its_supervisor(project: Settings) -> None:
    valkey = start(project).pids["valkey"]
    assert valkey
    os.kill(valkey, signal.SIGSTOP)
    assert Server(project, None).stop().stopped
    assert not processes_of(folder(project))


def test_a_start_after_a_stop_that_was_interrupted_starts_anew(project: Settings) -> None:
    supervisor = start(project).pids["supervisor"]
    assert supervisor
    submit(project, "echo kept")
    os.kill(supervisor, signal.SIGTERM)
    while json.loads((folder(project) / "status.json").read_text())["state"] == "ready":
        time.sleep(0.001)
    # It takes a while, as with much data.
    os.kill(supervisor, signal.SIGSTOP)
    timer = threading.Timer(2.0, os.kill, (supervisor, signal.SIGCONT))
    timer.start()
    assert start(project).pids["supervisor"] != supervisor
    timer.cancel()
    assert commands(project) == ["echo kept"]


def test_a_suspended_supervisor_ends_when_it_is_told_to(project: Settings) -> None:
    supervisor = start(project).pids["supervisor"]
    assert supervisor
    os.kill(supervisor, signal.SIGSTOP)
    begin = time.monotonic()
    assert Server(project, None).stop().stopped
    assert time.monotonic() - begin < 30
    assert not processes_of(folder(project))


def test_stale_pids_harm_nobody(project: Settings) -> None:
    """What an earlier life wrote down names processes that are somebody else's now: here, a bystander."""
    start(project)
    Server(project, None).stop()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            (folder(project) / "lock").write_text(f"{bystander.pid}\n")
            document = json.loads((folder(project) / "status.json").read_text())
            document.update(state="ready", valkey=bystander.pid, supervisor=bystander.pid)
            (folder(project) / "status.json").write_text(json.dumps(document))
            assert not Server(project, None).status().running
            assert not Server(project, None).stop().stopped
            start(project)
            Server(project, None).stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parents[1].name)
def test_it_is_served_by_every_python(project: Settings, python: Path) -> None:
    """As on a host: the file alone, and a request on its standard input."""
    zipapp = build_bundle(project.root).path
    valkey = bundled_valkey()
    request = {"cluster": "c", "directory": project.server_directory, "candidates": [str(valkey)]}

    def ask(verb: str, **more: object) -> dict[str, object]:
        argv = [python, "-I", "-S", zipapp, "server"]
        text = json.dumps({"verb": verb, **request, **more})
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, timeout=60)
        reply: dict[str, object] = json.loads(done.stdout)["ok"]
        return reply

    assert ask("start")["state"] == "ready"
    assert ask("start")["already"] is True
    keeper = ask("status")["keeper"]
    assert isinstance(keeper, int)
    # It does its work, and does not just come back again and again.
    wait_until(lambda: "keeper started" in (folder(project) / "keeper.log").read_text(), 15)
    assert ask("status")["keeper"] == keeper
    assert ask("stop", forget=True)["stopped"] is True


@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parents[1].name)
def test_a_python_that_is_too_old_says_so(python: Path) -> None:
    source = "from __future__ import annotations\nraise SystemExit('ran')\n"
    gate = _GATE.format(size=len(source))
    loader = f"import sys;exec(compile(sys.stdin.buffer.read({len(gate)}),'roomful','exec'))"
    argv = [python, "-I", "-S", "-c", loader]
    done = subprocess.run(argv, input=(gate + source).encode(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 86
    assert b"3.8 or newer is needed" in done.stderr


def test_a_folder_of_somebody_elses_is_refused(project: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder(project).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServerError, match="not a folder of ours"):
        start(project)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    folder(project).unlink()


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    from tests.support.server import clean_up

    settings = Settings(root=tmp_path, server_directory=str(tmp_path / ("long" * 25)))
    try:
        status = start(settings)
        assert len(status.socket) <= 107
        assert stat.S_IMODE(Path(status.socket).parent.stat().st_mode) == 0o700
        submit(settings, "true")
        assert commands(settings) == ["true"]
    finally:
        clean_up(settings)
    assert not Path(status.socket).parent.exists()


def test_two_projects_do_not_meet(project: Settings, tmp_path: Path) -> None:
    from tests.support.server import clean_up

    other = Settings(root=tmp_path / "other", server_directory=str(tmp_path / "server2"))
    try:
        start(project)
        start(other)
        submit(project, "echo mine")
        assert commands(other) == []
        Server(other, None).stop()
        assert commands(project) == ["echo mine"]
    finally:
        clean_up(other)


def test_a_start_waits_for_a_stop(project: Settings) -> None:
    start(project)
    with ThreadPoolExecutor(2) as pool:
        stopping = pool.submit(Server(project, None).stop)
        time.sleep(0.02)
        starting = pool.submit(Server(project, None).start)
        assert stopping.result().stopped
        starting.result()
    assert Server(project, None).status().state in ("ready", "stopped")
    assert len(processes_of(folder(project))) in (0, 3)


def test_the_lock_lets_others_look(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.owner() is None
    assert lock.acquire()
    assert Lock(tmp_path / "lock").owner() == os.getpid()
    assert not Lock(tmp_path / "lock").acquire(wait=0.05)
    lock.release()
    assert Lock(tmp_path / "lock").owner() is None
