"""Command lines that every login shell reads alike. The integration test asks the shells themselves."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.login_shell import command_line, not_found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param(["ls", "-l", "a/b.txt"], "ls -l a/b.txt", id="plain"),
        pytest.param(["echo", "", "a b", "$x", "=ls", "~"], "echo '' 'a b' '$x' '=ls' '~'", id="quotes"),
        pytest.param(["it's"], "'it'\"'\"'s'", id="a quote"),
        pytest.param(["a\\b"], "'a'\\\\'b'", id="a backslash is fish's even in quotes"),
        pytest.param(["!x"], "\\!'x'", id="an exclamation mark is csh's even in quotes"),
    ],
)
def test_words(words: list[str], line: str) -> None:
    assert command_line(words) == line


def test_no_newline_is_ever_in_a_line() -> None:
    line = command_line(["sh", "-c", "echo a\necho 'b\\c!'\n"])
    assert "\n" not in line
    assert line.startswith("sh -c 'eval ")


@given(st.lists(st.text(alphabet="ab \t\n'\"\\!$`%{}[]~#=^&;|<>()*?-0\x01é", max_size=8), max_size=6))
def test_a_posix_shell_reads_what_was_meant(words: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", command_line(["printf", "%s\\0", *words, "."])], capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[:-1] == [*words, "."]


@pytest.mark.parametrize(
    ("code", "words", "missing"),
    [
        pytest.param(127, b"bash: line 1: python3: command not found", True, id="bash"),
        pytest.param(127, b"fish: Unknown command: python3", True, id="fish"),
        pytest.param(1, b"python3: Command not found.", True, id="csh"),
        pytest.param(1, b"NameError: python3", False, id="python itself failed"),
        pytest.param(127, b"sh: 1: rsync: not found", False, id="another program"),
    ],
)
def test_a_program_that_is_not_there(code: int, words: bytes, missing: bool) -> None:
    assert not_found("python3", code, words) is missing
