"""ssh_config, read without paramiko: blocks, patterns, Match, tokens; held beside OpenSSH's own reading."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from roomful.ssh_config import ConfigError, Found, SshConfig, matches

CONFIG = """\
# before any Host: for everybody
ServerAliveInterval 7
Host desk  shelf
    HostName = %h.example.org
    User ada
    IdentityFile /keys/%n
Host node? node1[0] !node3
    Port=2201   # a comment
    IdentityFile "/keys/with blank"
    User nodes
Host node7
    User late
    ProxyJump ada@front:2222,second
Match originalhost node2,far exec "test %n = far"
    User exec
Match host *.example.org !user ada
    User nobody
Match final host desk.example.org
    HostKeyAlias the-desk
Match host desk.example.org user ada
    ProxyCommand nc -X 5 "%h" %p %r %%
Host *
    User everyone
    Port 2299
    IdentityFile /keys/all
"""
NAMES = ("desk", "shelf", "node1", "node3", "node7", "node2", "far", "node10", "other")
COMPARED = ("hostname", "user", "port", "proxyjump", "proxycommand", "hostkeyalias")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "config").write_text(CONFIG)
    return tmp_path / "config"


@pytest.mark.skipif(not shutil.which("ssh"), reason="not installed: ssh (openssh-client)")
@pytest.mark.parametrize("name", NAMES)
def test_openssh_reads_the_same(path: Path, name: str) -> None:
    argv = ["ssh", "-G", "-F", str(path), name]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    pairs = [line.partition(" ")[::2] for line in said.splitlines()]
    theirs = {keyword: value for keyword, value in pairs if keyword in COMPARED}
    found = SshConfig(path).lookup(name)
    ours = {keyword: found.values[keyword] for keyword in COMPARED if keyword in found.values}
    # ssh -G shows the command before its tokens are replaced.
    assert ("proxycommand" in ours) == ("proxycommand" in theirs)
    for one in (ours, theirs):
        one.pop("proxycommand", None)
    assert ours == theirs
    files = [value for keyword, value in pairs if keyword == "identityfile"]
    assert list(found.identity_files) == [file.replace("%n", name) for file in files]


def test_tokens_are_replaced_where_the_value_is_used(path: Path) -> None:
    assert SshConfig(path).lookup("desk").get("proxycommand") == 'nc -X 5 "desk.example.org" 2299 ada %'


def test_none_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host a\n ProxyJump none\nHost *\n ProxyJump front\n")
    config = SshConfig(tmp_path / "config")
    assert [config.lookup(name).get("proxyjump") for name in ("a", "b")] == ["", "front"]


def test_a_name_without_any_block_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host a\n User x\n")
    assert SshConfig(tmp_path / "config").lookup("b") == Found({"hostname": "b"})


@pytest.mark.parametrize(
    ("text", "patterns", "fits"),
    [
        ("node1", ["node?"], True),
        ("node12", ["node?"], False),
        ("node1", ["*", "!node1"], False),
        ("node1", ["!node2"], False),
        ("n.x", ["n.x"], True),
        ("nax", ["n.x"], False),
        ("[::1]", ["[::1]"], True),
    ],
)
def test_patterns(text: str, patterns: list[str], fits: bool) -> None:
    assert matches(text, patterns) is fits


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Host a\nPort\n", "config:2: no keyword and value"),
        ("Match\n", "config:1: no keyword and value"),
        ("Match place here\n", "config:1: Match does not know 'place'"),
        ("Match user\n", "config:1: Match user needs a value"),
        ('IdentityFile "open\n', "config:1: No closing quotation"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=why):
        SshConfig(tmp_path / "config")


def test_a_block_a_host_costs_nothing_for_the_others(tmp_path: Path) -> None:
    """Tried one by one, 1,000 blocks for 1,000 hosts are a million comparisons: 12 s in paramiko."""
    names = [f"host{number}" for number in range(1000)]
    (tmp_path / "config").write_text("".join(f"Host {name}\n  HostName 10.0.0.1\n" for name in names))
    start = time.process_time()
    config = SshConfig(tmp_path / "config")
    assert {config.lookup(name).get("hostname") for name in names} == {"10.0.0.1"}
    assert time.process_time() - start < 0.5
