"""A queue server of the user's own, reached through the door: tasks run, rights stay small, outages pass."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from roomful.agent.door import agent_user
from roomful.agent.keys import Keys
from roomful.clients import start_clients, stop_clients
from roomful.errors import ServerError
from roomful.hosts import resolve
from roomful.lab import Lab
from roomful.outcome import Outcomes
from roomful.queue import TaskSpec
from roomful.server import Server, open_queue
from roomful.settings import Settings
from roomful.state import ProjectState
from tests.support.lab import settings_for
from tests.support.server import clean_up
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

PASSWORD = "not a secret: a test's"


class Theirs:
    """A server as a group's administrator runs it: on TCP, with a password, for several users."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.valkey = Valkey(folder, ["appendfsync always"])
        self.valkey.start()
        self.client = self.valkey.client()
        self.client.config_set("port", str(self.port))
        self.client.set("somebody's", "else")
        self.url = f"redis://lab:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/0"
        self.make_user("+@all")

    def make_user(self, *rules: str) -> None:
        self.client.execute_command("ACL", "SETUSER", "lab", "reset", "on", f">{PASSWORD}", "~*", "&*", *rules)


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Theirs]:
    folder = tmp_path / "theirs"
    folder.mkdir()
    server = Theirs(folder)
    yield server
    server.valkey.stop()


@pytest.fixture
def settings(theirs: Theirs, rootless_lab: Lab, tmp_path: Path) -> Iterator[Settings]:
    made = settings_for(
        rootless_lab,
        tmp_path / "project",
        server_directory=str(tmp_path / "server"),
        workdir=str(tmp_path / "work"),
        server_url=theirs.url,
    )
    yield made
    if theirs.valkey.process:
        stop_clients(resolve("lab", made), made, now=True, forget=True)
    clean_up(made)


def ok(outcomes: Outcomes[object]) -> None:
    assert not outcomes.not_ok, outcomes


def run(settings: Settings, *commands: str) -> list[str]:
    with open_queue(settings) as queue:
        report = queue.submit([TaskSpec(command=command) for command in commands], allow_duplicates=True)
        assert report.durable
        assert queue.wait(report.ids, timeout=60), str(queue.counts())
        return [queue.output(number).head.decode() for number in report.ids]


def test_tasks_run_through_it_and_forgetting_leaves_the_others_keys(theirs: Theirs, settings: Settings) -> None:
    hosts = resolve("lab", settings)
    status, already = Server.of(settings).start()
    assert (status.state, already) == ("ready", False)
    assert status.program.endswith(f" at redis://127.0.0.1:{theirs.port}")
    assert PASSWORD not in str(status)
    ok(start_clients(hosts, settings))
    assert set(run(settings, *["echo $ROOMFUL_HOST; sleep 0.5"] * 20)) == {f"{host.label}\n" for host in hosts}
    ok(stop_clients(hosts, settings))
    prefix = Keys(ProjectState(settings).cluster_name).prefix
    assert theirs.client.keys(f"{prefix}*")
    Server.of(settings).stop(forget=True)
    assert not theirs.client.keys(f"{prefix}*")
    assert theirs.client.get("somebody's") == b"else"
    users = theirs.client.acl_users()
    assert agent_user(ProjectState(settings).cluster_name) not in users


def test_agents_may_do_no_more_there_than_on_our_own_valkey(theirs: Theirs, settings: Settings) -> None:
    Server.of(settings).start()
    with Server.of(settings).access() as access:
        own = redis.Redis(unix_socket_path=access.socket, username="agent", password=access.passwords["agent"])
        with pytest.raises(redis.exceptions.NoPermissionError):
            own.get("somebody's")
        own.close()
        for name, word in (("agent", "wrong"), ("lab", PASSWORD), ("default", "")):
            stranger = redis.Redis(unix_socket_path=access.socket, username=name, password=word or None)
            with pytest.raises(redis.RedisError):
                stranger.ping()
            stranger.close()
    assert (Path(settings.server_directory) / "upstream.json").stat().st_mode & 0o777 == 0o600
    pids = Server.of(settings).status().pids.values()
    assert all(PASSWORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def test_an_outage_there_is_waited_out(theirs: Theirs, settings: Settings) -> None:
    hosts = resolve("lab", settings)
    Server.of(settings).start()
    ok(start_clients(hosts, settings))
    with open_queue(settings) as queue:
        report = queue.submit([TaskSpec(command="sleep 3; echo done")])
        wait_until(lambda: queue.counts().running, 10)
    theirs.valkey.signal(signal.SIGKILL)
    with pytest.raises(ServerError, match=f"cannot reach redis://127.0.0.1:{theirs.port}"), open_queue(settings):
        pass
    # Its users are gone with it, as where no ACL file keeps them; we are made again, the agents are not.
    theirs.valkey.start()
    theirs.client = theirs.valkey.client()
    theirs.client.config_set("port", str(theirs.port))
    theirs.make_user("+@all")
    with open_queue(settings) as queue:
        assert queue.wait(report.ids, timeout=60), str(queue.counts())
        (task,) = queue.tasks()
        assert (task.state, task.tries) == ("done", ())


def test_an_account_that_may_make_no_user_is_said_to_be_the_agents(theirs: Theirs, settings: Settings) -> None:
    theirs.make_user("+@all", "-acl")
    status, _ = Server.of(settings).start()
    assert "agents have all rights of the URL's account" in status.why
    ok(start_clients(resolve("lab", settings), settings))
    assert run(settings, "echo yes") == ["yes\n"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1", "bad URL of a queue server"),
        ("redis://127.0.0.1:1", "cannot work with the queue server"),
        ("unix:///nowhere.sock", "cannot work with the queue server"),
        ("rediss://127.0.0.1:1?ssl_ca_certs=/nowhere.pem", "bad URL of a queue server"),
    ],
)
def test_a_bad_url_is_refused_and_nothing_is_started(settings: Settings, url: str, words: str) -> None:
    bad = settings.replace(server_url=url)
    with pytest.raises(ServerError, match=words):
        Server.of(bad).start()
    assert not Server.of(bad).status().running


def test_a_server_that_throws_keys_away_is_refused(theirs: Theirs, settings: Settings) -> None:
    theirs.client.config_set("maxmemory", "100mb")
    theirs.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ServerError, match="throws tasks away"):
        Server.of(settings).start()
    theirs.client.config_set("maxmemory-policy", "noeviction")
    theirs.client.config_set("appendonly", "no")
    assert "a restart there may lose tasks" in Server.of(settings).start()[0].why


def test_another_engine_is_not_taken_for_the_one_that_runs(settings: Settings) -> None:
    Server.of(settings).start()
    with pytest.raises(ServerError, match="not with a Valkey of its own; stop it first"):
        Server.of(settings.replace(server_url="")).start()


def test_tls_is_spoken_and_its_certificate_checked(theirs: Theirs, settings: Settings, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve_tls, args=(listener, context, theirs.port), daemon=True).start()
    try:
        place = theirs.url.replace("redis://", "rediss://").replace(
            f"127.0.0.1:{theirs.port}", f"localhost:{listener.getsockname()[1]}"
        )
        with pytest.raises(ServerError, match="certificate"):
            Server.of(settings.replace(server_url=place)).start()
        trusting = dataclasses.replace(settings, server_url=f"{place}?ssl_ca_certs={certificate}")
        assert Server.of(trusting).start()[0].state == "ready"
        ok(start_clients(resolve("lab", trusting), trusting))
        assert run(trusting, "printf over; printf TLS") == ["overTLS"]
    finally:
        ok(stop_clients(resolve("lab", settings), settings, now=True))
        Server.of(settings).stop()
        listener.close()


def _serve_tls(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """Take TLS off, as stunnel does in front of such servers."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_one_tls, args=(near, context, port), daemon=True).start()


def _one_tls(near: socket.socket, context: ssl.SSLContext, port: int) -> None:
    try:
        wrapped = context.wrap_socket(near, server_side=True)
        far = socket.create_connection(("127.0.0.1", port))
    except OSError:
        near.close()
        return
    threading.Thread(target=_copy, args=(far, wrapped), daemon=True).start()
    _copy(wrapped, far)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
