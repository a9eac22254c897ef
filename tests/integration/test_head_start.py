"""The head start: hosts are dialled while the SSH layer is still being loaded, and nobody is dialled twice."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.dialer import Address, Dialer
from roomful.head_start import HeadStart
from roomful.hosts import Host, parse_host
from roomful.outcome import HostFailure
from roomful.settings import Settings
from roomful.ssh import HostGroup

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def host_of(server: socket.socket) -> Host:
    return parse_host(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, ssh_config=str(tmp_path / "none"), connect_timeout_seconds=2.0)


def test_the_first_packet_leaves_at_once(listener: socket.socket, settings: Settings) -> None:
    start = HeadStart([host_of(listener)], settings)
    connection, _ = listener.accept()
    connection.close()
    assert start.dialer is not None
    start.dialer.stop()
    start.dialer.run(lambda index, answer: None)


def test_the_group_goes_on_with_it_and_dials_nobody_again(listener: socket.socket, settings: Settings) -> None:
    host = host_of(listener)
    group = HostGroup([host], settings, head_start=HeadStart([host], settings))
    connection, _ = listener.accept()
    listener.settimeout(0.5)
    with connection:
        (outcome,) = group.each(lambda connection: None)
        assert (outcome.reason, outcome.detail) == ("timeout", "connected, but the server never spoke within 2 s")
    with pytest.raises(TimeoutError):
        listener.accept()


def test_its_time_runs_from_the_first_packet(listener: socket.socket, settings: Settings) -> None:
    host = host_of(listener)
    start = HeadStart([host], settings.replace(connect_timeout_seconds=1.0))
    time.sleep(0.8)
    begin = time.monotonic()
    HostGroup([host], settings, head_start=start).each(lambda connection: None)
    assert time.monotonic() - begin < 0.8


def test_hosts_behind_a_gateway_wait_for_the_login_there(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config").write_text("Host inner\n  ProxyCommand false\n")
    start = HeadStart([Host("inner")], settings.replace(ssh_config=str(tmp_path / "config")))
    assert start.dialer is None
    assert len(start.endpoints) == 1


def test_answers_that_come_before_anybody_listens_are_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # An address that cannot even be tried is answered for while dialling begins.
    dialer = Dialer([Address("127.0.0.1", port), Address("255.255.255.255", 1)], 2.0)
    dialer.begin()
    answers: dict[int, socket.socket | HostFailure] = {}
    dialer.run(lambda index, answer: answers.update({index: answer}))
    assert isinstance(answers[0], HostFailure)
    assert answers[0].reason == "refused"
    assert isinstance(answers[1], HostFailure)


def test_run_dials_before_it_loads_the_ssh_layer(listener: socket.socket, tmp_path: Path) -> None:
    code = """
import socket, sys
from pathlib import Path
from roomful import run
from roomful.hosts import parse_host
from roomful.settings import Settings

listener = socket.socket(fileno=int(sys.argv[1]))

class Loading:
    def find_spec(self, name, path=None, target=None):
        if name == "paramiko":
            listener.settimeout(2)
            try:
                listener.accept()
                print("dialled")
            except TimeoutError:
                print("not dialled")
            sys.meta_path.remove(self)

sys.meta_path.insert(0, Loading())
settings = Settings(root=Path(sys.argv[2]), ssh_config="none", connect_timeout_seconds=0.5)
host = parse_host(f"127.0.0.1:{listener.getsockname()[1]}")
run.run([host], run.Job.of_command(["true"]), settings)
"""
    argv = [sys.executable, "-c", code, str(listener.fileno()), str(tmp_path)]
    done = subprocess.run(
        argv, cwd=CHECKOUT, pass_fds=[listener.fileno()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "dialled\n", done.stderr
