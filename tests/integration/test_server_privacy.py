"""The server on this machine is its owner's alone: files, passwords, environment, terminal and network."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from roomful.errors import ServerError
from roomful.settings import Settings
from tests.support.server import folder, start


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


def test_a_folder_of_somebody_elses_is_refused(project: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder(project).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServerError, match="not a folder of ours"):
        start(project)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    folder(project).unlink()
