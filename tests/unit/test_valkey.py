"""Valkey's configuration, users and words, without any process."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from roomful.agent.valkey import (
    Program,
    acl_file,
    configuration,
    passwords_in,
    quoted,
    what_was_cut,
    why_it_ended,
)

VALKEY = Program("/usr/bin/valkey-server", (8, 1, 0), "Valkey")
REDIS_7_0 = Program("/usr/bin/redis-server", (7, 0, 15), "Redis")
REDIS_6 = Program("/usr/bin/redis-server", (6, 2, 0), "Redis")


def test_nothing_listens_but_a_private_socket() -> None:
    text = configuration(Path("/d"), "/d/valkey.sock", VALKEY)
    lines = text.splitlines()
    assert 'port "0"' in lines
    assert 'unixsocket "/d/valkey.sock"' in lines
    assert 'unixsocketperm "600"' in lines
    assert not [line for line in lines if line.startswith(("bind", "tls-port"))]


def test_an_old_server_gets_no_setting_that_it_does_not_know() -> None:
    assert "enable-debug-command" in configuration(Path("/d"), "/s", REDIS_7_0)
    assert "enable-" not in configuration(Path("/d"), "/s", REDIS_6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ('a "b" \\c', '"a \\"b\\" \\\\c"'),
        ("a\nport 6379", '"a\\x0aport 6379"'),
        ("é", '"\\xc3\\xa9"'),
        ("\udcff", '"\\xff"'),
    ],
    ids=["plain", "quotes", "newline", "utf-8", "not utf-8"],
)
def test_a_value_is_never_a_second_setting(value: str, text: str) -> None:
    assert quoted(value) == text


def test_users_have_hashed_passwords_and_the_default_one_is_off() -> None:
    text = acl_file({"controller": "c" * 64, "agent": "a" * 64}, "~x* +ping", VALKEY)
    default, controller, agent = text.splitlines()
    assert default.startswith("user default off ")
    assert f"#{hashlib.sha256(b'c' * 64).hexdigest()} " in controller
    assert "-@dangerous" in controller
    assert agent == f"user agent on #{hashlib.sha256(b'a' * 64).hexdigest()} ~x* +ping"
    assert "cccc" not in text
    assert "nopass" not in text


def test_a_rule_about_an_unknown_subcommand_would_stop_an_old_server() -> None:
    passwords = {"controller": "c", "agent": "a"}
    assert "client|setinfo" in acl_file(passwords, "", VALKEY)
    assert "client|setinfo" not in acl_file(passwords, "", REDIS_7_0)


def test_passwords_are_made_once_long_and_private(tmp_path: Path) -> None:
    first = passwords_in(tmp_path)
    assert {len(bytes.fromhex(password)) for password in first.values()} == {32}
    assert len(set(first.values())) == 2
    assert passwords_in(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "passwords.json").stat().st_mode) == 0o600


def line(text: str) -> str:
    """A line as Valkey logs it."""
    return f"4711:M 21 Nov 2026 06:42:43.071 # {text}"


@pytest.mark.parametrize(
    ("last", "data"),
    [
        ("Bad file format reading the append only file x.aof: make a backup of your AOF file", True),
        ("Error reading the append only file x.aof, error: unknown command 'HXXX'", True),
        ("Invalid AOF manifest file format", True),
        ("Can't open the append-only file: No space left on device", False),
        ("Fatal: Can't initialize Background Jobs.", False),
        ("Failed opening Unix socket: bind: Address already in use", False),
    ],
)
def test_why_a_server_would_not_start(last: str, data: bool) -> None:
    log = "\n".join([line("Valkey is starting"), line(last), line("Server initialized")])
    assert why_it_ended(log) == (last, data)


def test_a_server_that_said_nothing() -> None:
    assert why_it_ended("") == ("", False)


def test_what_a_power_cut_took_is_told() -> None:
    assert what_was_cut(line("DB loaded from append only file")) == ""
    assert "ends at byte 681" in what_was_cut(line("Truncating the AOF x.incr.aof at offset 681"))
