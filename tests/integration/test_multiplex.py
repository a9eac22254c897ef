"""Commands over one warm channel a host: exact bytes, flow control, and process trees that end when they must."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import warm as warm_module
from roomful.hosts import Host, parse_host, resolve
from roomful.lab import Lab
from roomful.multiplex import HostCommands
from roomful.outcome import HostFailure
from roomful.remote_process import STDERR, STDOUT, Launch, RemoteProcess
from roomful.settings import Settings
from roomful.warm import WarmHosts
from tests.support import bad_servers
from tests.support.lab import LabFactory, lab, rootless_lab, settings_for
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree, wait_until_gone
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]


class Seen:
    """A listener that keeps what it is told, and grants what it was given unless told not to."""

    process: RemoteProcess

    def __init__(self, grant: bool = True) -> None:
        self.grant = grant
        self.pid = 0
        self.bytes = {STDOUT: bytearray(), STDERR: bytearray()}
        self.times: list[float] = []
        self.over = threading.Event()
        self.status: int | None = None
        self.failure: HostFailure | None = None

    def started(self, pid: int) -> None:
        self.pid = pid

    def received(self, stream: int, data: bytes) -> None:
        self.bytes[stream] += data
        self.times.append(time.monotonic())
        if data and self.grant:
            self.process.grant(stream, len(data))

    def ended(self, status: int | None, failure: HostFailure | None) -> None:
        self.status, self.failure = status, failure
        self.over.set()

    @property
    def out(self) -> bytes:
        return bytes(self.bytes[STDOUT])


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    return settings_for(rootless_lab, tmp_path)


@pytest.fixture
def hosts(settings: Settings) -> tuple[Host, ...]:
    return resolve("lab", settings)


@pytest.fixture
def warm(settings: Settings) -> Iterator[WarmHosts]:
    with WarmHosts(settings) as pool:
        yield pool


@pytest.fixture
def commands(warm: WarmHosts, hosts: tuple[Host, ...]) -> HostCommands:
    found = warm.connect(hosts[:1])[0].value
    assert found
    return found


def run(commands: HostCommands, launch: Launch, stdin: bytes | None = None, seconds: float = 20.0) -> Seen:
    """Run a command to its end."""
    seen = Seen()
    process = commands.start(launch, seen)
    if stdin is not None:
        process.write(stdin)
        process.close_stdin()
    assert seen.over.wait(seconds), f"no end: {launch}"
    return seen


def start_tree(commands: HostCommands, mark: str) -> Seen:
    seen = Seen()
    commands.start(Launch(TREE.format(mark=mark)), seen)
    wait_for_tree(mark)
    return seen


def test_a_command_has_its_shell_folder_environment_and_exit_code(commands: HostCommands) -> None:
    seen = run(commands, Launch('printf \'%s|\' {1..3} "$PWD" "$A"; echo no >&2; exit 3', "/usr/lib", {"A": "b c\n"}))
    assert seen.out == b"1|2|3|/usr/lib|b c\n|"
    assert bytes(seen.bytes[STDERR]) == b"no\n"
    assert (seen.status, seen.failure) == (3, None)
    seen = run(commands, Launch(["printenv", "HOME"], env={"HOME": None}))
    assert (seen.out, seen.status) == (b"", 1)
    assert run(commands, Launch("kill -USR1 $$")).status == -signal.SIGUSR1
    assert run(commands, Launch("echo gone", stdout=False)).out == b""


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        (Launch("true", cwd="/no/such/folder"), "/no/such/folder: No such file or directory"),
        (Launch(["no-such-program"]), "no-such-program: No such file or directory"),
        (Launch([""]), ": posix_spawnp: argv first element cannot be empty"),
        (Launch(["echo", "a\0b"]), "echo: embedded null byte"),
    ],
    ids=["folder", "program", "no name", "NUL"],
)
def test_what_cannot_start_says_why(commands: HostCommands, launch: Launch, why: str) -> None:
    seen = run(commands, launch)
    assert seen.status is None
    assert seen.failure
    assert seen.failure.detail == why
    assert run(commands, Launch("echo fine")).out == b"fine\n"


def test_bytes_are_exact_in_both_directions_at_once(commands: HostCommands) -> None:
    data = random.Random(5).randbytes(30_000_000)
    seen = run(commands, Launch(["cat"]), data, 60)
    assert seen.status == 0
    assert hashlib.sha256(seen.out).digest() == hashlib.sha256(data).digest()


def test_who_is_not_read_and_who_does_not_read_stop_nobody_else(commands: HostCommands) -> None:
    flood, deaf = Seen(grant=False), Seen()
    flooding = commands.start(Launch(["cat", "/dev/zero"]), flood)
    deafening = commands.start(Launch(["sleep", "1000"]), deaf)
    for _ in range(100):
        assert deafening.write(bytes(1_000_000), wait=False)
    wait_until(lambda: len(flood.out) >= 1 << 20, 10)
    begin = time.monotonic()
    assert run(commands, Launch("echo here")).out == b"here\n"
    assert time.monotonic() - begin < 1
    assert len(flood.out) == 1 << 20
    # Reading on lets it go on.
    flooding.grant(STDOUT, 1 << 20)
    wait_until(lambda: len(flood.out) == 2 << 20, 10, lambda: len(flood.out))
    for process, seen in ((flooding, flood), (deafening, deaf)):
        process.kill()
        assert seen.over.wait(5)
        assert seen.status == -signal.SIGKILL
    assert not deafening.write(b"too late")


def test_more_commands_than_sshd_has_sessions(commands: HostCommands) -> None:
    several = [Seen() for _ in range(40)]
    for number, seen in enumerate(several):
        commands.start(Launch(f"read x; echo {number} $x"), seen)
    wait_until(lambda: all(seen.pid for seen in several), 20)
    for seen in several:
        seen.process.write(b"at once\n")
    for number, seen in enumerate(several):
        assert seen.over.wait(20)
        assert seen.out == b"%d at once\n" % number


@pytest.mark.parametrize(
    ("launch", "first"),
    [
        (Launch("{ echo ready; sleep 30; } | sed 's/$/!/'", line_buffered=True), b"ready!\n"),
        (Launch(["python3", "-c", "import time; print('ready'); time.sleep(30)"], line_buffered=True), b"ready\n"),
        (Launch(["perl", "-e", 'print "ready\n"; sleep 30'], terminal=True), b"ready\n"),
    ],
    ids=["stdio", "python", "terminal"],
)
def test_lines_come_when_they_are_written(commands: HostCommands, launch: Launch, first: bytes) -> None:
    seen = Seen()
    process = commands.start(launch, seen)
    wait_until(lambda: seen.out == first, 10, lambda: bytes(seen.out))
    process.kill()
    assert seen.over.wait(5)


def test_a_signal_reaches_the_whole_process_group(commands: HostCommands) -> None:
    seen = Seen()
    script = (
        "trap 'echo outer; exit 7' INT; (trap 'echo inner; exit' INT; echo ready; while :; do sleep 0.05; done); wait"
    )
    process = commands.start(Launch(script), seen)
    wait_until(lambda: seen.out == b"ready\n", 10, lambda: bytes(seen.out))
    process.signal(signal.SIGINT)
    assert seen.over.wait(10)
    assert seen.out == b"ready\ninner\nouter\n"
    assert seen.status == 7


def test_kill_ends_the_whole_tree_and_nobody_elses(commands: HostCommands) -> None:
    mine, other = new_mark(), new_mark()
    seen, spared = start_tree(commands, mine), start_tree(commands, other)
    seen.process.kill()
    assert seen.over.wait(5)
    assert seen.process.gone.wait(5)
    assert alive(mine) == []
    assert len(alive(other, "sleep")) == 2
    assert not spared.over.is_set()


def test_a_daemon_that_outlives_its_command_is_still_of_its_tree(commands: HostCommands) -> None:
    number = new_mark()
    seen = run(commands, Launch(f"setsid sleep {number} > /dev/null 2>&1 < /dev/null &"))
    assert seen.status == 0
    assert alive(number)
    assert not seen.process.gone.is_set()
    seen.process.kill()
    assert seen.process.gone.wait(5)
    assert alive(number) == []


def test_closing_waits_until_nothing_is_left(warm: WarmHosts, commands: HostCommands) -> None:
    number = new_mark()
    start_tree(commands, number)
    warm.close()
    assert alive(number) == []
    assert not commands.alive


def test_a_connection_that_breaks_ends_everything_there(commands: HostCommands) -> None:
    number = new_mark()
    seen = start_tree(commands, number)
    commands.abandon()
    assert seen.over.wait(5)
    assert seen.failure
    assert seen.failure.reason == "lost"
    wait_until_gone(number, 5)


def test_silence_ends_everything_there(
    settings: Settings, hosts: tuple[Host, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the network is cut: the connection stands, and nothing comes."""
    monkeypatch.setattr(warm_module, "PING_SECONDS", 3600.0)
    number = new_mark()
    with WarmHosts(settings) as pool:
        commands = pool.connect(hosts[:1])[0].value
        assert commands
        start_tree(commands, number)
        wait_until_gone(number, 5)
        wait_until(lambda: not commands.alive, 2)


def test_pings_keep_an_idle_connection_alive(commands: HostCommands) -> None:
    time.sleep(5.5)
    assert run(commands, Launch("echo here")).out == b"here\n"


def test_a_killed_supervisor_leaves_nothing(commands: HostCommands) -> None:
    number, other = new_mark(), new_mark()
    seen = start_tree(commands, number)
    start_tree(commands, other)
    before = alive(other)
    os.kill(parent(seen.pid), signal.SIGKILL)
    assert seen.over.wait(5)
    assert seen.status == -signal.SIGKILL
    wait_until_gone(number, 5)
    # The launcher has killed what the dead supervisor left, and nothing of the command beside it.
    assert alive(other) == before
    assert run(commands, Launch("echo here")).out == b"here\n"


def test_a_killed_launcher_leaves_nothing(commands: HostCommands) -> None:
    number = new_mark()
    seen = start_tree(commands, number)
    os.kill(commands.about["pid"], signal.SIGKILL)
    assert seen.over.wait(5)
    assert seen.failure
    wait_until_gone(number, 5)


def test_a_lost_host_can_be_connected_again(warm: WarmHosts, hosts: tuple[Host, ...], commands: HostCommands) -> None:
    os.kill(commands.about["pid"], signal.SIGKILL)
    wait_until(lambda: not commands.alive, 5)
    again = warm.connect(hosts[:1])[0].value
    assert again
    assert again is not commands
    assert run(again, Launch("echo back")).out == b"back\n"


def test_each_host_has_an_outcome(warm: WarmHosts, hosts: tuple[Host, ...]) -> None:
    outcomes = warm.connect((*hosts, Host("127.0.0.1", port=1)))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "ok", "unreachable"]
    assert outcomes[3].reason == "refused"
    names = [run(outcome.value, Launch("hostname")).out.decode().strip() for outcome in outcomes.ok if outcome.value]
    assert names == [host.name for host in hosts]


def test_a_host_that_cannot_be_reached_costs_one_deadline(settings: Settings) -> None:
    quick = settings.replace(connect_timeout_seconds=1.0)
    with bad_servers.serve(bad_servers.silent) as label, WarmHosts(quick) as pool:
        host = parse_host(label)
        begin = time.monotonic()
        reasons = [pool.connect([host])[0].reason for _ in range(5)]
        assert reasons == ["timeout"] * 5
        assert time.monotonic() - begin < 2
        pool.retry_seconds = 0.0
        begin = time.monotonic()
        assert pool.connect([host])[0].reason == "timeout"
        assert time.monotonic() - begin >= 1


def test_a_host_without_python_says_so(lab: LabFactory, tmp_path: Path) -> None:
    bare = lab(count=1, rootless=True, own="no python")
    program = bare.host_directory("lab01") / "bin" / "python3"
    program.write_text("#!/bin/sh\nexit 127\n")
    program.chmod(0o755)
    settings = settings_for(bare, tmp_path)
    with WarmHosts(settings) as pool:
        outcome = pool.connect(resolve("lab", settings))[0]
    assert (outcome.status, outcome.reason) == ("failed", "no-python")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
