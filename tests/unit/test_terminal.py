"""The login for people: what OpenSSH is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.hosts import parse_host
from roomful.settings import Settings
from roomful.terminal import shell_argv


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, ssh_config="none", known_hosts=str(tmp_path / "known"))


def test_it_may_ask_and_still_checks_keys_and_forwards_nothing(settings: Settings) -> None:
    argv = shell_argv(parse_host("ada@node:2222"), settings)
    # ssh takes the first value of an option.
    assert argv.index("BatchMode=no") < argv.index("BatchMode=yes")
    assert {"StrictHostKeyChecking=yes", "ForwardAgent=no", "ForwardX11=no", "-t"} <= set(argv)
    assert argv[-2:] == ["--", "node"]
    assert argv[argv.index("-p") + 1] == "2222"
    assert argv[argv.index("-l") + 1] == "ada"


@pytest.mark.parametrize(
    ("command", "line"),
    [(["cd x && ls"], "cd x && ls"), (["printf", "%s", "a b;c"], "printf '%s' 'a b;c'")],
    ids=["a line", "words"],
)
def test_a_command_is_one_argument(settings: Settings, command: list[str], line: str) -> None:
    argv = shell_argv(parse_host("node"), settings, command, tty=False)
    assert argv[-3:] == ["--", "node", line]
    assert "-T" in argv
