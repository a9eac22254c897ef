"""The link's command line and words, without any process."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from roomful.agent.keeper_link import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    REMOTE_SCRIPT,
    Link,
    escaped,
    link_argv,
    reason_of,
    valid_record,
)

RECORD = {
    "ssh": ["ssh", "-o", "BatchMode=yes"],
    "name": "node01",
    "directory": "/tmp/roomful-7/c/node01",
    "generation": "1",
}


def test_the_argv_of_an_attempt() -> None:
    argv = link_argv(RECORD, "link-0a.sock", "/var/tmp/roomful-7/c/valkey.sock")
    assert argv[:3] == ["ssh", "-o", "BatchMode=yes"]
    assert argv[argv.index("-R") + 1] == "/tmp/roomful-7/c/node01/link-0a.sock:/var/tmp/roomful-7/c/valkey.sock"
    assert "ExitOnForwardFailure=yes" in argv
    assert "ControlPath=none" in argv
    assert argv[-3:-1] == ["--", "node01"]
    words = ["sh", "-c", REMOTE_SCRIPT, "roomful-link", "/tmp/roomful-7/c/node01", "link-0a.sock"]
    assert shlex.split(argv[-1]) == words


def test_the_remote_script_means_the_same_in_every_login_shell() -> None:
    """In single quotes csh still takes ! and newlines for its own, fish backslashes."""
    assert not set(REMOTE_SCRIPT) & set("'!\\\n")


@pytest.mark.parametrize("directory", ["/tmp/a b/$(touch x)", "/tmp/x;reboot", "/tmp/`id`", "/tmp/'q"])
def test_a_folders_name_is_never_a_command(directory: str) -> None:
    argv = link_argv({**RECORD, "directory": directory}, "u", "/v.sock")
    assert shlex.split(argv[-1])[4] == directory


@pytest.mark.parametrize(
    ("path", "written"),
    [("/a/b", "/a/b"), ("/a:b", "/a\\:b"), ("/a\\b", "/a\\\\b")],
    ids=["plain", "colon", "backslash"],
)
def test_colons_separate_only_where_they_should(path: str, written: str) -> None:
    assert escaped(path) == written


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["Host key verification failed."], 255, "host-key"),
        (["u@h: Permission denied (publickey)."], 255, "auth"),
        (["ssh: Could not resolve hostname x: Name or service not known"], 255, "dns"),
        (["ssh: connect to host x port 22: Connection timed out"], 255, "timeout"),
        (["Timeout, server x not responding."], 255, "timeout"),
        (["ssh: connect to host x port 22: Connection refused"], 255, "refused"),
        (["ssh: connect to host x port 22: No route to host"], 255, "no-route"),
        (["Error: remote port forwarding failed for listen path /tmp/x"], 255, "forwarding"),
        (["Connection closed by 10.0.0.1 port 22"], 255, "lost"),
        (["a .bashrc says hello", "/tmp/x is not a folder of ours"], 93, "error"),
        (["something new"], 1, "error"),
        ([], 255, "lost"),
        ([], -9, "lost"),
    ],
)
def test_the_reason_behind_what_ssh_says(words: list[str], code: int, reason: str) -> None:
    found, detail = reason_of(words, code)
    assert found == reason
    assert detail


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {**RECORD, "ssh": []},
        {**RECORD, "ssh": "ssh -o ProxyCommand=x"},
        {**RECORD, "ssh": ["ssh", 3]},
        {**RECORD, "name": "-oProxyCommand=reboot"},
        {**RECORD, "directory": 5},
        {**RECORD, "host_key": "a ssh-ed25519 AAAA\nb ssh-ed25519 BBBB"},
    ],
)
def test_a_record_that_is_refused(record: Any) -> None:
    assert not valid_record(record)


def test_a_record_that_is_taken() -> None:
    assert valid_record(RECORD)
    assert valid_record({**RECORD, "host_key": "roomful-node01 ssh-ed25519 AAAAC3Nza+/="})


def test_pauses_grow_and_are_jittered() -> None:
    link = Link("node01", {**RECORD, "ssh": ["/does/not/exist"]}, "/v.sock")
    pauses = []
    for number in range(12):
        link.attempt(1000.0 * number)
        assert link.state == "down"
        pauses.append(link.next_attempt - 1000.0 * number)
    for number, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**number)
        assert longest / 2 <= pause <= longest
    assert link.reason == "error"
    link.retry_now()
    assert link.next_attempt == 0.0


def test_a_link_that_has_just_come_up_says_nothing_of_an_agent_that_was_cut_off() -> None:
    link = Link("node01", RECORD, "/v.sock")
    link.state, link.since, link.answered = "up", 100.0, 107.0
    assert link.alive(107.5)
    assert not link.would_hear(107.5, 8.0)
    assert link.would_hear(108.5, 8.0)


def test_only_a_fresh_answer_proves_a_host_alive() -> None:
    link = Link("node01", RECORD, "/v.sock")
    link.answered = 100.0
    assert not link.alive(101.0)
    link.state = "up"
    assert link.alive(101.0)
    assert not link.alive(105.0)
