"""Lines, and what they are given to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from roomful.errors import InputError
from roomful.experiments import Console, EnvParser, File, IterClassGen, SubstrMatcher, counter, log
from roomful.experiments.command import LONGEST_LINE, Lines, handlers_of, signal_number
from roomful.experiments.logs import logger
from roomful.experiments.version1 import Printer


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger.name)
    return caplog


def lines(*chunks: bytes) -> list[str]:
    cutter = Lines()
    return [line for chunk in (*chunks, b"") for line in cutter.feed(chunk)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a\nb", b"c\n"], ["a\n", "bc\n"]),
        ([b"a\r\nb\rc\x0c\n", b"end"], ["a\r\n", "b\rc\x0c\n", "end"]),
        ([b"\xc3", b"\xa9\n"], ["é\n"]),
        ([b"\xff\n"], ["\udcff\n"]),
        ([b"\n\n"], ["\n", "\n"]),
        ([], []),
    ],
    ids=[
        "across chunks",
        "only newlines end lines",
        "character across chunks",
        "not UTF-8",
        "empty lines",
        "nothing",
    ],
)
def test_lines(chunks: list[bytes], expected: list[str]) -> None:
    assert lines(*chunks) == expected


def test_a_line_that_never_ends_comes_in_pieces() -> None:
    pieces = lines(*[b"x" * 65536] * 40, b"\nnext\n")
    assert max(map(len, pieces)) <= LONGEST_LINE
    assert "".join(pieces) == "x" * 65536 * 40 + "\nnext\n"


def test_console_writes_to_the_log(logged: pytest.LogCaptureFixture) -> None:
    Console("node: %s!")("100 %s \n")
    log({"a": 1})
    Printer('stdin="{line}" 5%\n', rstrip=True)("x\n")
    assert [(record.levelname, record.getMessage()) for record in logged.records] == [
        ("CONSOLE", "node: 100 %s!"),
        ("LOG", "{'a': 1}"),
        ("CONSOLE", 'stdin="x" 5%'),
    ]
    with pytest.raises(InputError, match="bad format 'plain'"):
        Console("plain")


def test_file_writes_bytes_as_they_came(tmp_path: Path) -> None:
    file = File(tmp_path, "out.log")
    for line in lines(b"a\r\n\xff\xfe\nend"):
        file(line)
    file.close()
    more = File(tmp_path / "out.log", append=True, flush=True)
    more("more\n")
    assert (tmp_path / "out.log").read_bytes() == b"a\r\n\xff\xfe\nendmore\n"
    with pytest.raises(InputError, match="cannot write the file: No such file"):
        File(tmp_path / "none" / "out.log")


def test_env_parser_reads_and_evaluates_nothing() -> None:
    parser = EnvParser()
    for line in ("A=1 + 1\n", "B=x=y\n", "no equals\n", "__class__=x\n", "_values=x\n"):
        parser(line)
    assert (parser["A"], parser.B, parser["__class__"]) == ("1 + 1", "x=y", "x")
    assert parser.A == "1 + 1"
    with pytest.raises(AttributeError, match="no line C="):
        _ = parser.C


def test_matcher_matches_and_can_be_reset() -> None:
    matcher = SubstrMatcher("ready")
    matcher("not yet\n")
    assert not matcher.matched()
    assert not matcher.wait(timeout=0.01)
    matcher("server is ready.\n")
    assert matcher.matched()
    assert matcher.wait()
    matcher.reset()
    assert not matcher.matched()


@pytest.mark.parametrize("value", [3, "out.log", [print, None], {"a": 1}])
def test_what_cannot_be_called_is_no_handler(value: Any) -> None:
    with pytest.raises(InputError, match=r"the stdout handler .* cannot be called"):
        handlers_of(value, "stdout")


def test_one_handler_or_several() -> None:
    assert handlers_of(None, "stdout") == ()
    assert handlers_of(print, "stdout") == (print,)
    assert handlers_of((handler for handler in (print, log)), "stdout") == (print, log)


@pytest.mark.parametrize(("given", "number"), [(2, 2), ("INT", 2), ("sigint", 2), ("9", 9)])
def test_signals(given: Any, number: int) -> None:
    assert signal_number(given) == number


@pytest.mark.parametrize("given", ["NOPE", 0, 65, -1, ""])
def test_no_signals(given: Any) -> None:
    with pytest.raises(InputError, match="no signal"):
        signal_number(given)


def test_counter_and_instances() -> None:
    count = counter(5, 2)
    assert (next(count), next(count)) == (5, 7)
    made = IterClassGen(list[int], (1, 2))
    assert next(made) is made[0]
    next(made).append(3)
    assert [*made] == [[1, 2], [1, 2, 3]]
    assert len(made) == 2
