"""rsync's command lines, numbers and failures."""

from __future__ import annotations

import io
import itertools
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roomful import rsync
from roomful.endpoint import endpoint_of
from roomful.errors import InputError
from roomful.hosts import Host, parse_host
from roomful.outcome import HostFailure
from roomful.rsync import Rsync, Transferred, failure, pull_options, push_options, transferred
from roomful.settings import Settings

STATS = """
Number of files: 11 (reg: 7, dir: 3, link: 1)
Number of regular files transferred: 7
Total bytes sent: 1234567
Total bytes received: 158

sent 517 bytes  received 158 bytes  1350.00 bytes/sec
"""


class FakeProcess:
    """A process that has ended."""

    def __init__(self) -> None:
        self.stdin, self.stdout, self.stderr = io.BytesIO(), io.BytesIO(), io.BytesIO()

    def terminate(self) -> None:
        raise AssertionError("it has ended already")


class FakeConnection:
    """What a push uses of a HostConnection: it notes the command line and answers with an exit code."""

    def __init__(self, host: Host, settings: Settings, *answers: tuple[int, str, str]) -> None:
        self.entry = host
        self.endpoint = endpoint_of(host, settings)
        self.answers = list(answers) or [(0, STATS, "")]
        self.lines: list[str] = []

    def local(self, line: str, **options: Any) -> Any:
        self.lines.append(line)
        self.options = options
        code, stdout, stderr = self.answers.pop(0)
        process = FakeProcess()
        result = SimpleNamespace(exited=code, stdout=stdout, stderr=stderr)
        return SimpleNamespace(runner=SimpleNamespace(process=process), join=lambda: result)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, ssh_config=str(tmp_path / "none"), known_hosts=str(tmp_path / "known hosts"))


@pytest.fixture(autouse=True)
def untied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync, "_dying_with_us", tuple)
    monkeypatch.setattr(rsync.shutil, "which", lambda name: f"/bin/{name}")


def pushed(host: Host, settings: Settings, source: bytes, target: str, *options: str) -> list[str]:
    connection = FakeConnection(host, settings)
    with Rsync(settings) as process:
        process.push(connection, source, target, options)  # type: ignore[arg-type]  # a stand-in
    (line,) = connection.lines
    assert connection.options["shell"] == "/bin/sh"
    return shlex.split(line)


ODD = "a b'c\"d$(touch x)`y`;&|*?\\e\nf -z"


def test_whatever_is_in_a_name_stays_one_word(settings: Settings) -> None:
    argv = pushed(parse_host("me@h1:2222"), settings, f"/s/{ODD}".encode(), f"/t/{ODD}", f"--x={ODD}")
    assert argv[:2] == ["exec", "rsync"]
    assert argv[-2:] == [f"/s/{ODD}/", f"me@h1:/t/{ODD}/"]
    assert f"--x={ODD}" in argv


def test_ssh_gets_the_options_of_every_other_connection(settings: Settings) -> None:
    rsh = next(word for word in pushed(parse_host("me@h1:2222"), settings, b"/s", "/t") if word.startswith("--rsh"))
    words = shlex.split(rsh.removeprefix("--rsh="))
    assert words[0] == "ssh"
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={settings.known_hosts}"):
        assert any(word.replace('"', "") == option for word in words), option
    assert ("-p", "2222") in itertools.pairwise(words)


def test_the_name_in_the_host_list_is_kept_and_its_address_an_option(settings: Settings) -> None:
    host = Host("node1", "me", attributes={"address": "10.0.0.5"})
    argv = pushed(host, settings, b"/s", "/t")
    assert argv[-1] == "me@node1:/t/"
    assert "HostName=10.0.0.5" in " ".join(argv)


def test_an_ipv6_address_is_put_in_brackets(settings: Settings) -> None:
    assert pushed(parse_host("me@[fe80::1]:22"), settings, b"/s", "/t")[-1] == "[me@fe80::1]:/t/"


def test_a_host_in_a_namespace_is_reached_from_inside(settings: Settings) -> None:
    argv = pushed(Host("h1", "me", attributes={"netns": "rf-lab"}), settings, b"/s", "/t")
    assert argv[1:5] == ["nsenter", "--net=/run/netns/rf-lab", "--", "rsync"]


def test_a_path_that_would_end_the_quotes_is_refused(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, known_hosts=str(tmp_path / "it's"))
    with pytest.raises(InputError, match="quotes"):
        pushed(parse_host("h1"), settings, b"/s", "/t")


def test_a_server_that_turns_away_connections_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsync, "TURNED_AWAY_PAUSES", (0.0, 0.0))
    away = (255, "", "kex_exchange_identification: Connection closed by remote host\n")
    connection = FakeConnection(parse_host("me@h1"), settings, away, away, (0, STATS, ""))
    with Rsync(settings) as process:
        moved = process.push(connection, b"/s", "/t", ())  # type: ignore[arg-type]  # a stand-in
    assert (moved, len(connection.lines)) == (Transferred(1234567, 158, 7), 3)
    connection = FakeConnection(parse_host("me@h1"), settings, away, away, away)
    with pytest.raises(HostFailure) as failed, Rsync(settings) as process:
        process.push(connection, b"/s", "/t", ())  # type: ignore[arg-type]  # a stand-in
    assert failed.value.reason == "lost"


def test_a_push_says_exactly_what_goes() -> None:
    options = push_options(Path("/l"), ["/releases/x"])
    assert {"--no-recursive", "--links", "--from0", "--files-from=/l", "--link-dest=/releases/x", "-s"} <= {*options}
    assert "--modify-window=-1" in options
    assert "--ignore-times" in push_options(Path("/l"), [], compare_content=True)


def test_a_pull_makes_no_links_devices_or_modes_here() -> None:
    options = pull_options(Path("/l"))
    assert "--copy-links" in options
    words = {
        "--links",
        "--archive",
        "--devices",
        "--specials",
        "--perms",
        "--owner",
        "--group",
        "--recursive",
        "--inplace",
    }
    assert words.isdisjoint(options)
    assert not [option for option in options if option.startswith("-") and option[1:2] != "-" and option != "-s"]


@pytest.mark.parametrize(
    ("code", "stderr", "reason", "detail"),
    [
        (
            11,
            "rsync: write failed on x: No space left on device (28)\nrsync error: x\n",
            "disk-full",
            "No space left",
        ),
        (11, "rsync: mkstemp x failed: Disk quota exceeded (122)\n", "quota", "Disk quota"),
        (255, "me@h: Permission denied (publickey).\nrsync: connection unexpectedly closed\n", "auth", "publickey"),
        (255, "Host key verification failed.\n", "host-key", "verification"),
        (
            12,
            "rsync: connection unexpectedly closed (0 bytes)\nrsync error: error in x (code 12)\n",
            "lost",
            "closed",
        ),
        (30, "rsync error: timeout in data send\n", "lost", "nothing moved for 60 s"),
        (20, "rsync error: received SIGINT\n", "interrupted", ""),
        (-9, "", "interrupted", ""),
        (2, "protocol version mismatch -- is your shell clean?\n", "noisy-shell", "~/.bashrc"),
        (127, "sh: 1: rsync: not found\n", "no-program", "not found"),
        (12, "bash: rsync: command not found\nrsync: connection closed\n", "no-program", "command not found"),
        (12, "bash: line 1: /usr/bin/rsync: Permission denied\nrsync: connection closed\n", "no-program", "denied"),
        (12, "sh: 1: rsync: not found\nrsync: connection closed\n", "no-program", "not found"),
        (12, "rsync: connection closed\nrsync: Permission denied (13)\n", "lost", "connection closed"),
        (
            23,
            "rsync: send_files failed to open x: Permission denied (13)\nrsync error: some\n",
            "exit 23",
            "send_files",
        ),
        (3, "", "exit 3", ""),
    ],
)
def test_failures_are_named(code: int, stderr: str, reason: str, detail: str) -> None:
    failed = failure(code, stderr)
    assert failed.reason == reason
    assert detail in failed.detail


@pytest.mark.parametrize(
    ("stdout", "moved"),
    [
        (STATS, Transferred(1234567, 158, 7)),
        (STATS.replace("1234567", "1,234,567"), Transferred(1234567, 158, 7)),
        (STATS.replace("regular files", "files"), Transferred(1234567, 158, 7)),
        ("", Transferred(0, 0, 0)),
    ],
    ids=["3.1", "commas", "3.0", "nothing"],
)
def test_numbers_are_read(stdout: str, moved: Transferred) -> None:
    assert transferred(stdout) == moved
