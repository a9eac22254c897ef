"""The command line: words without a flag, exit codes, messages. Run through Invoke's own Program, in-process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection, Context, Exit, Program

from fabfile._step import Call, current_call, fitted, guard, name_tasks, settings_of, step
from roomful.errors import InputError, RoomfulError

Run = Callable[..., tuple[int, list[tuple[Any, ...]], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    calls: list[tuple[Any, ...]] = []

    @step(extra="paths")
    def create_folders(c: Context, paths: list[str], hosts: str = "", json: bool = False) -> None:
        """Make folders."""
        calls.append(("create", paths, hosts, json))

    @step(extra="source")
    def deploy(c: Context, source: str = "", hosts: str = "") -> None:
        """Deploy."""
        calls.append(("deploy", source, hosts))

    @step(name="filter")
    def filter_hosts(c: Context, hosts: str = "") -> None:
        """Filter."""
        calls.append(("filter", hosts))

    @step(extra="name", chained=False)
    def bench(c: Context, name: str = "") -> None:
        """Measure."""
        calls.append(("bench", name))

    @step(command=True)
    def execute(c: Context, hosts: str = "") -> None:
        """Execute."""
        calls.append(("execute", hosts))

    @step()
    def reach(c: Context, hosts: str = "", from_: str = "", count: int = 1, seconds: float = 0.0) -> None:
        """Reach."""
        calls.append((settings_of(c).gateway, current_call().line(hosts="left")))

    @step(extra="ids")
    def fails(c: Context, ids: list[str], hosts: str = "", force: bool = False) -> None:
        """Fail."""
        if ids == ["bad"]:
            raise InputError("bad id 'bad'", fix="write 1,3-8")
        if ids == ["stop"]:
            raise KeyboardInterrupt
        raise RoomfulError("no luck", where=current_call().line(hosts="left"))

    collection = Collection(create_folders, deploy, filter_hosts, bench, execute, reach, fails)
    name_tasks(collection)
    monkeypatch.setattr(sys, "exit", lambda code=0: (_ for _ in ()).throw(SystemExit(code)))

    def run_words(*words: str) -> tuple[int, list[tuple[Any, ...]], str]:
        calls.clear()
        code = 0
        try:
            Program(namespace=collection, version="1").run(["inv", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, list(calls), capsys.readouterr().err

    return run_words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("create-folders a b c --hosts n7", [("create", ["a", "b", "c"], "n7", False)]),
        ("create-folders --hosts n7 a b", [("create", ["a", "b"], "n7", False)]),
        ("create-folders --hosts n7 --json a", [("create", ["a"], "n7", True)]),
        ("create-folders a --hosts=n7 filter --hosts=x", [("create", ["a"], "n7", False), ("filter", "x")]),
        ("create-folders", [("create", [], "", False)]),
        ("bench deploy", [("bench", "deploy")]),
        ("bench deploy filter", [("bench", "deploy"), ("filter", "")]),
        ("deploy --hosts n7", [("deploy", "", "n7")]),
        ("deploy src --hosts n7", [("deploy", "src", "n7")]),
        ("deploy --hosts n7 src create-folders x", [("deploy", "src", "n7"), ("create", ["x"], "", False)]),
        ("deploy - filter", [("deploy", "-", ""), ("filter", "")]),
    ],
)
def test_words_without_a_flag(run: Run, words: str, expected: list[tuple[Any, ...]]) -> None:
    assert run(*words.split())[:2] == (0, expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("deploy one two", "there is no task 'two'; see inv --help deploy"),
        ("nosuch", "there is no task 'nosuch'; see inv --list"),
        (
            "create-folders a --no-such-flag",
            "inv create-folders has no flag '--no-such-flag'; see inv --help create-folders",
        ),
        (
            "create-folders a --hostz n7",
            "inv create-folders has no flag '--hostz'; did you mean --hosts? see inv --help",
        ),
        (
            "--hosts n7 deploy",
            "inv itself has no flag '--hosts'; flags of a task come after its name; see inv --list",
        ),
        ("deploi", "there is no task 'deploi'; did you mean deploy? see inv --list"),
        ("--help nosuch", "inv: there is no task 'nosuch'; see inv --list"),
        ("--help deploi", "inv: there is no task 'deploi'; did you mean inv --help deploy? see inv --list"),
        ("deploy --hosts", "needed value"),
        (
            "execute uptime --hosts n7",
            "there is no task 'uptime'; a command stands after --: inv execute ... -- uptime; see inv --help execute",
        ),
        ("reach --count=many", "inv: 'many' is not a number; see inv --help TASK"),
    ],
)
def test_a_mistyped_command_line_does_nothing_and_exits_with_2(run: Run, words: str, said: str) -> None:
    code, calls, err = run(*words.split())
    assert (code, calls) == (2, [])
    assert said in err
    assert len(err.splitlines()) == 1


def test_help_is_broken_anew_for_the_terminal_and_examples_are_not() -> None:
    doc = """Say what it does.

    A paragraph that is written for a file of code, and is wider than many a terminal is, with --two-words in it.
    It goes on.

    Example:
        inv stays-as-it-is --however long-it-is --because it-is-copied
    """
    assert fitted(doc, 40).splitlines() == [
        "Say what it does.",
        "",
        "A paragraph that is written for a file",
        "of code, and is wider than many a",
        "terminal is, with --two-words in it. It",
        "goes on.",
        "",
        "Example:",
        "    inv stays-as-it-is --however long-it-is --because it-is-copied",
    ]


def test_every_task_with_hosts_takes_a_gateway(run: Run) -> None:
    assert run("reach", "--hosts", "n7")[1] == [("", "inv reach --hosts=left")]
    _, calls, _ = run("reach", "--gateway", "front", "--hosts=a", "filter", "--hosts=b", "--gateway=other", "reach")
    again = "inv reach --hosts=left --gateway=front"
    assert calls == [("front", again), ("filter", "b"), ("", "inv reach --hosts=left")]


def test_a_call_names_its_flags_as_they_are_typed(run: Run) -> None:
    assert run("reach", "--from=x", "--count=3")[1] == [("", "inv reach --from=x --count=3 --hosts=left")]
    assert run("reach", "--seconds=2")[1] == [("", "inv reach --seconds=2 --hosts=left")]


def test_bad_input_is_one_line_and_code_2(run: Run) -> None:
    assert run("fails", "bad") == (2, [], "inv fails: bad id 'bad'; write 1,3-8\n")


def test_other_errors_are_code_1_and_can_name_the_call_again(run: Run) -> None:
    code, _, err = run("fails", "a b", "c", "--force", "--hosts", "n7")
    assert (code, err) == (1, "inv fails: inv fails 'a b' c --hosts=left --force: no luck\n")


def test_an_interrupt_is_code_130(run: Run) -> None:
    assert run("fails", "stop")[0] == 130


def test_errors_stay_on_one_line_whatever_is_in_them() -> None:
    with pytest.raises(Exit) as caught, guard("x"):
        raise RoomfulError("bad\nname\x1b[31m", where="host")
    assert caught.value.message == "inv x: host: bad\\nname\\x1b[31m"


def test_a_file_that_fails_is_named_in_one_line() -> None:
    with pytest.raises(Exit) as caught, guard("deploy"):
        Path("/dev/null/x").read_bytes()
    assert (caught.value.code, caught.value.message) == (1, "inv deploy: /dev/null/x: Not a directory")


@pytest.mark.parametrize(
    ("word", "written"),
    [("a b", "'a b'"), ("a\udcff'\\b", r"$'a\xff\x27\x5cb'"), ("ü\udcff", r"$'\xc3\xbc\xff'")],
)
def test_bytes_that_are_no_text_can_be_pasted(word: str, written: str) -> None:
    assert Call("run", {"words": word}, "words").line().split(" ", 2)[2] == written
