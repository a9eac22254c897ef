"""The fan-out over real SSH servers and over servers that misbehave: outcomes, deadlines, host keys."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roomful import dialer
from roomful.connection import LOST_AFTER_MS, TCP_USER_TIMEOUT
from roomful.endpoint import endpoint_of
from roomful.handshakes import BUSY_SECONDS
from roomful.hosts import Host, parse_host, resolve
from roomful.lab import Lab
from roomful.outcome import HostFailure, Outcome
from roomful.settings import Settings
from roomful.ssh import HostConnection, HostGroup, connect, fan_out
from tests.support import bad_servers
from tests.support.lab import LabFactory, lab, rootless_lab, settings_for
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    return settings_for(rootless_lab, tmp_path)


@pytest.fixture
def hosts(settings: Settings) -> tuple[Host, ...]:
    return resolve("lab", settings)


def say(connection: HostConnection) -> str:
    return connection.execute(["echo", "here", connection.entry.name]).text


def test_every_host_ends_in_one_outcome_and_the_order_is_the_lists(
    hosts: tuple[Host, ...], settings: Settings
) -> None:
    seen: list[Outcome[str]] = []
    group = [*hosts, parse_host("127.0.0.1:1"), parse_host("no-such-host.invalid")]
    outcomes = fan_out(group, say, settings, seen.append)
    assert [outcome.host for outcome in outcomes] == group
    assert sorted(outcome.host.label for outcome in seen) == sorted(host.label for host in group)
    assert [outcome.value for outcome in outcomes.ok] == [f"here {host.name}" for host in hosts]
    assert [(o.status, o.reason) for o in outcomes.not_ok] == [("unreachable", "refused"), ("unreachable", "dns")]


def test_bad_hosts_cost_one_deadline_together_and_live_ones_nothing(
    hosts: tuple[Host, ...], settings: Settings
) -> None:
    quick = settings.replace(connect_timeout_seconds=1.0, login_timeout_seconds=2.0, parallel=4, handshakes=2)
    kinds = {
        bad_servers.silent: "timeout",
        bad_servers.dripping: "timeout",
        bad_servers.flooding: "protocol",
        bad_servers.slamming: "protocol",
        bad_servers.half_way: "timeout",
    }
    with contextlib.ExitStack() as stack:
        bad = {parse_host(stack.enter_context(bad_servers.serve(kind))): reason for kind, reason in kinds.items()}
        silent = [parse_host(stack.enter_context(bad_servers.serve(bad_servers.silent))) for _ in range(20)]
        start = time.monotonic()
        outcomes = fan_out([*silent, *bad, *hosts], say, quick)
        seconds = time.monotonic() - start
    by_host = {outcome.host: outcome for outcome in outcomes}
    assert {host: by_host[host].status for host in hosts} == dict.fromkeys(hosts, "ok")
    assert max(by_host[host].seconds for host in hosts) < 3.0
    assert {host: by_host[host].reason for host in silent} == dict.fromkeys(silent, "timeout")
    for host, reason in bad.items():
        assert (by_host[host].status, by_host[host].reason) == ("unreachable", reason), by_host[host]
    assert seconds < 1.0 + 2 * 2.0 + 1.5


def test_hosts_that_hang_at_the_login_cost_one_deadline_however_many_they_are(
    hosts: tuple[Host, ...], settings: Settings
) -> None:
    """As where the file server of all homes has died: each would hold one of the few slots for key exchanges."""
    quick = settings.replace(connect_timeout_seconds=5.0, login_timeout_seconds=3.0, handshakes=4)
    with contextlib.ExitStack() as stack:
        hanging = [parse_host(stack.enter_context(bad_servers.serve(bad_servers.half_way))) for _ in range(24)]
        start = time.monotonic()
        outcomes = fan_out([*hanging, *hosts], say, quick)
        seconds = time.monotonic() - start
    by_host = {outcome.host: outcome for outcome in outcomes}
    assert {by_host[host].reason for host in hanging} == {"timeout"}
    assert {by_host[host].status for host in hosts} == {"ok"}
    # They are let in four at a time, each for half a second; one after the other they would cost 18 s.
    assert seconds < 24 / 4 * BUSY_SECONDS + 3.0 + 3.0


def test_a_server_that_drops_the_first_connections_is_tried_again(rootless_lab: Lab, settings: Settings) -> None:
    real = endpoint_of(rootless_lab.entries[0], settings)
    address = real.host, real.port
    known = settings.root / "known_hosts"
    with bad_servers.serve(bad_servers.slamming_at_first(2, address)) as where:
        through = settings.replace(accept_new_host_keys=True, known_hosts=str(known))
        host = Host(*_split(where), attributes={"ssh_config": str(_config_without_known_hosts(rootless_lab, known))})
        outcomes = fan_out([host], lambda connection: connection.execute(["true"]).exit_code, through)
    assert outcomes[0].status == "ok", outcomes[0]


class TestMaxStartups:
    """Real servers that take one login at a time, and somebody who has begun one and says nothing."""

    @pytest.fixture
    def room(self, lab: LabFactory) -> Lab:
        return lab(own="startups", count=2, rootless=True, max_startups="1:100:1")

    @staticmethod
    @contextlib.contextmanager
    def crowd(room: Lab, settings: Settings) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for host in resolve("lab", settings):
                endpoint = endpoint_of(host, settings)
                held = stack.enter_context(socket.create_connection((endpoint.host, endpoint.port), 5))
                assert held.recv(4) == b"SSH-"
            yield

    def test_we_come_back_until_there_is_room(
        self, room: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As many drops as silent servers are allowed are soon over.
        monkeypatch.setattr(dialer, "DROPPED_PAUSES", (0.05,) * 4)
        settings = settings_for(room, tmp_path, connect_timeout_seconds=20.0)
        with ThreadPoolExecutor(1) as pool:
            with self.crowd(room, settings):
                waiting = pool.submit(fan_out, resolve("lab", settings), say, settings)
                with pytest.raises(TimeoutError):
                    waiting.result(1.5)
            outcomes = waiting.result(25)
        assert [outcome.status for outcome in outcomes] == ["ok", "ok"], outcomes.not_ok

    def test_it_costs_the_time_to_connect_and_is_named(self, room: Lab, tmp_path: Path) -> None:
        settings = settings_for(room, tmp_path, connect_timeout_seconds=1.5)
        begin = time.monotonic()
        with self.crowd(room, settings):
            outcomes = fan_out(resolve("lab", settings), say, settings)
        assert time.monotonic() - begin < 3.5
        for outcome in outcomes:
            assert (outcome.status, outcome.reason) == ("unreachable", "protocol")
            assert outcome.detail.startswith("the server takes no more logins now: Exceeded MaxStartups ("), outcome


def _split(where: str) -> tuple[str, None, int]:
    host = parse_host(where)
    return host.name, None, host.port or 22


def _config_without_known_hosts(lab: Lab, known: Path) -> Path:
    lines = lab.ssh_config.read_text().splitlines()
    kept = [line for line in lines if "UserKnownHostsFile" not in line]
    path = known.parent / "ssh_config"
    path.write_text(f"UserKnownHostsFile {known}\n" + "\n".join(kept) + "\n")
    return path


class TestHostKeys:
    @pytest.fixture
    def known(self, tmp_path: Path) -> Path:
        return tmp_path / "my_known_hosts"

    @pytest.fixture
    def host(self, rootless_lab: Lab, known: Path) -> Host:
        entry = rootless_lab.entries[0]
        config = _config_without_known_hosts(rootless_lab, known)
        return Host(entry.name, entry.user, entry.port, attributes={**entry.attributes, "ssh_config": str(config)})

    def test_an_unknown_key_is_refused_with_its_fingerprint(self, host: Host, settings: Settings) -> None:
        (outcome,) = fan_out([host], say, settings)
        assert (outcome.status, outcome.reason) == ("unreachable", "host-key")
        assert "SHA256:" in outcome.detail
        assert "--accept-new-host-keys" in outcome.detail

    def test_it_is_remembered_when_asked_and_known_from_then_on(
        self, host: Host, settings: Settings, known: Path
    ) -> None:
        accepting = settings.replace(accept_new_host_keys=True)
        assert fan_out([host], say, accepting)[0].status == "ok"
        assert len(known.read_text().splitlines()) == 1
        assert fan_out([host], say, settings)[0].status == "ok"
        assert fan_out([host], say, accepting)[0].status == "ok"
        assert len(known.read_text().splitlines()) == 1

    def test_a_changed_key_is_always_refused_and_we_never_log_in(
        self, host: Host, settings: Settings, known: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accepting = settings.replace(accept_new_host_keys=True)
        assert fan_out([host], say, accepting)[0].status == "ok"
        name, key_type, key = known.read_text().split()
        known.write_text(f"{name} {key_type} {key[:-8]}AAAAAAAA\n")
        logins: list[str] = []
        monkeypatch.setattr(HostConnection, "_log_in", lambda self, _: logins.append(self.entry.name))
        (outcome,) = fan_out([host], say, accepting)
        assert (outcome.status, outcome.reason) == ("unreachable", "host-key")
        assert "changed key" in outcome.detail
        assert f"{known}:1" in outcome.detail
        assert logins == []


def test_a_known_hosts_that_cannot_be_used_is_not_the_hosts_fault(
    rootless_lab: Lab, settings: Settings, tmp_path: Path
) -> None:
    entry = rootless_lab.entries[0]
    cases = ((tmp_path, "cannot read"), (Path("/proc/known"), "the key cannot be remembered in"))
    for number, (known, what) in enumerate(cases):
        config = tmp_path / f"config{number}"
        lines = _config_without_known_hosts(rootless_lab, tmp_path / "unused").read_text().splitlines()[1:]
        config.write_text("\n".join([f"UserKnownHostsFile {known}", *lines, ""]))
        host = Host(entry.name, entry.user, entry.port, attributes={**entry.attributes, "ssh_config": str(config)})
        (outcome,) = fan_out([host], say, settings.replace(accept_new_host_keys=True))
        assert (outcome.status, outcome.reason) == ("failed", "error")
        assert outcome.detail.startswith(f"here: {what} {known}: ")


class TestCommands:
    @pytest.fixture
    def host(self, hosts: tuple[Host, ...]) -> Host:
        return hosts[0]

    def test_bytes_are_exact_both_ways(self, host: Host, settings: Settings) -> None:
        data = bytes(range(256)) * 20_000
        with connect(host, settings) as connection:
            assert connection.execute(["cat"], stdin=data).stdout == data

    def test_two_full_streams_do_not_block_each_other(self, host: Host, settings: Settings) -> None:
        script = "head -c 5000000 /dev/zero >&2; head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2"
        with connect(host, settings) as connection:
            done = connection.execute(["sh", "-c", script])
        assert (len(done.stdout), len(done.stderr)) == (5_000_000, 10_000_000)

    def test_output_can_be_taken_as_it_comes(self, host: Host, settings: Settings) -> None:
        taken: list[tuple[str, bytes]] = []
        with connect(host, settings) as connection:
            done = connection.execute(["sh", "-c", "echo a; echo b >&2"], on_output=lambda *x: taken.append(x))
        assert sorted(taken) == [("stderr", b"b\n"), ("stdout", b"a\n")]
        assert (done.stdout, done.stderr) == (b"", b"")

    @pytest.mark.parametrize(
        ("script", "reason", "detail"),
        [
            pytest.param("echo oops >&2; exit 3", "exit 3", "oops", id="exit"),
            pytest.param("echo 'x: No space left on device' >&2; exit 1", "disk-full", "No space", id="disk"),
            pytest.param("echo 'x: Disk quota exceeded' >&2; exit 1", "quota", "quota", id="quota"),
            pytest.param("kill -9 $$", "signal 9", "", id="signal"),
            pytest.param("sleep 20", "command-timeout", "no end within 0.5 s", id="timeout"),
        ],
    )
    def test_a_failure_has_a_reason(
        self, host: Host, settings: Settings, script: str, reason: str, detail: str
    ) -> None:
        (outcome,) = fan_out([host], lambda c: c.execute(["sh", "-c", script], timeout=0.5), settings)
        assert (outcome.status, outcome.reason) == ("failed", reason)
        assert detail in outcome.detail

    def test_a_hostile_word_stays_one_word(self, host: Host, settings: Settings, tmp_path: Path) -> None:
        word = f"a b;touch {tmp_path}/owned $(touch {tmp_path}/owned) 'x' \"y\" \\ \n *"
        with connect(host, settings) as connection:
            assert connection.execute(["printf", "%s", word]).stdout.decode() == word
        assert not (tmp_path / "owned").exists()

    def test_python_gets_arguments_and_stdin(self, host: Host, settings: Settings) -> None:
        source = "import sys\nprint(sys.argv[1:], sys.stdin.buffer.read())\nsys.exit(4)"
        with connect(host, settings) as connection:
            done = connection.python(source, "a b", "'", stdin=b"\xff\n", check=False)
        assert (done.exit_code, done.text) == (4, "['a b', \"'\"] b'\\xff\\n'")

    def test_put_bytes_is_whole_and_private(self, host: Host, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "a file"
        with connect(host, settings) as connection:
            connection.put_bytes(b"x" * 300_000, str(path))
            assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"x" * 300_000, 0o600)
            with pytest.raises(HostFailure, match="exit"):
                connection.put_bytes(b"x", str(tmp_path / "none" / "file"))
        assert [item.name for item in tmp_path.iterdir() if "file" in item.name] == ["a file"]

    def test_a_defect_in_the_work_is_one_hosts_failure(self, hosts: tuple[Host, ...], settings: Settings) -> None:
        def work(connection: HostConnection) -> int:
            return 1 // (connection.entry.name != hosts[0].name)

        outcomes = fan_out(hosts, work, settings)
        assert [outcome.reason for outcome in outcomes] == ["error", None, None]
        assert "ZeroDivisionError" in outcomes[0].detail


def test_a_file_whose_connection_ends_in_the_middle_is_absent(
    hosts: tuple[Host, ...], settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()

    def partly() -> bool:
        return any(path.stat().st_size > 0 for path in folder.iterdir())

    with connect(hosts[0], settings) as connection, ThreadPoolExecutor() as pool:
        sent = pool.submit(connection.put_bytes, bytes(100_000_000), str(folder / "file"))
        wait_until(partly, 10, pause=0.001)
        connection.close()
        with pytest.raises(HostFailure):
            sent.result()
    # Nor is what had come of it left.
    wait_until(lambda: not any(folder.glob("*.tmp")), 10, lambda: str(list(folder.iterdir())))
    assert list(folder.iterdir()) == []


def test_a_connection_whose_packets_nobody_answers_is_given_up(hosts: tuple[Host, ...], settings: Settings) -> None:
    """Linux does it; without being told so it goes on for a quarter of an hour."""
    with connect(hosts[0], settings) as connection:
        assert connection.transport.sock.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == LOST_AFTER_MS


def test_fabrics_own_group_methods_work(hosts: tuple[Host, ...], settings: Settings) -> None:
    results = HostGroup(hosts, settings).run("echo $((6 * 7))")
    assert {result.stdout for result in results.values()} == {"42\n"}
