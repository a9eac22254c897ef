"""Task files: which kind they are, what is refused, and that every byte of a command stays."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful import taskfile
from roomful.agent.task import TaskSpec, decode_task
from roomful.errors import InputError, TaskFileError
from roomful.task_lines import LONGEST_COMMAND_BYTES, TaskDefaults
from roomful.taskfile import open_task_file


def specs(data: bytes, format: str = "", defaults: TaskDefaults | None = None) -> list[TaskSpec]:
    """Read a task file from memory, as from standard input."""
    with open_task_file(io.BytesIO(data), defaults, format=format) as tasks:
        found = list(tasks.specs())
        assert len(found) == tasks.count
        return found


def commands(data: bytes, format: str = "") -> list[str]:
    return [spec.command for spec in specs(data, format)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a\nb\n", ["a", "b"], id="plain"),
        pytest.param(b"a\nb", ["a", "b"], id="no line end at the end"),
        pytest.param(b"\n# no\n\n  # no\na # yes\n \t\n", ["a # yes"], id="comments and empty lines"),
        pytest.param(b"\xef\xbb\xbfa\n", ["a"], id="byte order mark"),
        pytest.param(b" a  \n", [" a  "], id="blanks stay"),
        pytest.param(b"a\x0cb\x1c\xc2\x85c\n", ["a\x0cb\x1c\x85c"], id="only LF ends a line"),
        pytest.param(b"\xff\xfe\xf0\n", ["\udcff\udcfe\udcf0"], id="bytes that are no UTF-8"),
        pytest.param(b'{ echo "a"; }\n', ['{ echo "a"; }'], id="a shell group is no JSON"),
        pytest.param(b"./a shell:1:2:3:b\n", ["./a shell:1:2:3:b"], id="colons further on"),
        pytest.param(b"PATH=/a:/b:/c:/d prog\n", ["PATH=/a:/b:/c:/d prog"], id="a path is no DistComp line"),
        pytest.param(b"shell:1:2:3:b\n", ["b"], id="distcomp"),
        pytest.param(
            b'{"command": "a"}\n  { "command": "b" }\r\n', ["a", "b"], id="JSON, also with Windows line ends"
        ),
    ],
)
def test_the_first_task_line_decides(data: bytes, expected: list[str]) -> None:
    assert commands(data) == expected


@pytest.mark.parametrize(
    ("data", "where", "says"),
    [
        (b"a\n\nshell:1:1:1:b\n", ":3", "looks like a DistComp line: line 1 is a plain command"),
        (b"#\nshell:1:1:1:b\na\n", ":3", "looks like a plain command: line 2 is a DistComp line"),
        (b'{"command": "a"}\nb\n', ":2", "looks like a plain command: line 1 is a JSON line"),
        (b'a\n{"command": "b"}\n', ":2", "looks like a JSON line: line 1 is a plain command"),
        (b"a\nbash:1:1:1:b\n", ":2", "looks like a DistComp line"),
        (b"shell:1:b\n", ":1", "only 3 of the 5 fields"),
        (b"shell:1:1:1:b\nshell:1:1:1:\n", ":2", "empty command"),
        (b"shell:1:1:1:b\r\n", ":1", "carriage return"),
        (b"a\nb\r\n", ":2", "carriage return"),
        (b"a\nb\0c\n", ":2", "a NUL byte"),
        ("a\n".encode("utf-16"), ":1", "a NUL byte: it looks like UTF-16"),
        (b"", "", "the file is empty"),
        (b"\n#a\n\n", "", "no task in it, only comments and empty lines"),
        (b"a\n" + b"x" * (LONGEST_COMMAND_BYTES + 1) + b"\n", ":2", "the command has 131,072 bytes"),
        (b"a\n" + b"x" * 3_000_000, ":2", "a line of more than 1,048,576 bytes"),
        (b'{"command": "a"}\n{"command": "b", "cpu": 1}', ":2", "unknown key 'cpu'; did you mean 'cpus'?"),
    ],
)
def test_refusals_name_the_line(data: bytes, where: str, says: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        specs(data)
    assert str(caught.value).startswith(f"standard input{where}: ")
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_format_that_was_named_settles_it() -> None:
    assert commands(b'shell:1:1:1:b\n{"command": "c"}\n', "lines") == ["shell:1:1:1:b", '{"command": "c"}']
    with pytest.raises(TaskFileError, match=r"standard input:2: only 1 of the 5 fields in 'echo'"):
        specs(b"shell:1:1:1:b\necho\n", "distcomp")
    with pytest.raises(TaskFileError, match=r"standard input:1: not JSON"):
        specs(b"a\n", "jsonl")
    with pytest.raises(InputError, match="unknown format 'csv'; use lines, distcomp, jsonl"):
        specs(b"a\n", "csv")


def test_plain_commands_get_the_defaults() -> None:
    defaults = TaskDefaults(priority=3, memory_bytes=2**30, cpus=0.5, timeout=60.0, retries=2)
    assert specs(b"a\n", defaults=defaults) == [defaults.spec("a")]


def test_distcomp_heads_are_read_once_and_meant_each_time() -> None:
    lines = b"shell:1:2:3:a\nshell:2:2:3:b\nshell:1:2:3:c\npython:1:2:3:d.py\npython:1:2:3:e.py 'f g'\n"
    found = specs(lines)
    assert [(spec.kind, spec.priority, spec.command) for spec in found] == [
        ("shell", 1, "a"), ("shell", 2, "b"), ("shell", 1, "c"), ("python", 1, "d.py"), ("python", 1, "e.py 'f g'"),
    ]  # fmt: skip


def test_more_different_heads_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taskfile, "_CACHED_HEADS", 3)
    lines = b"".join(b"shell:%d:0:1:x%d\n" % (number % 7, number) for number in range(50))
    assert [(spec.priority, spec.command) for spec in specs(lines)] == [(n % 7, f"x{n}") for n in range(50)]


def test_needs_name_the_first_line_that_has_them() -> None:
    data = b"#\nshell:0:0:1:a\nshell:5:2:4:b\nshell:9:2:4:c\nshell:0:0:1:d\n"
    with open_task_file(io.BytesIO(data)) as tasks:
        assert [(need.line, need.cpu_milli, need.memory_mib) for need in tasks.needs] == [
            (2, 1000, 0),
            (3, 4000, 2048),
        ]


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda line: b"\0" not in line and b"\n" not in line)))
def test_any_bytes_arrive_as_they_are(lines: list[bytes]) -> None:
    # A letter in front: what a line looks like is for other tests.
    wanted = [b"x" + line + b"." for line in lines]
    data = b"".join(line + b"\n" for line in wanted) + b"last"
    with open_task_file(io.BytesIO(data), format="lines") as tasks:
        payloads = list(tasks.payloads())
    assert [payload.split(b"\n", 3)[3] for payload in payloads] == [*wanted, b"last"]
    assert [decode_task(payload).command.encode("utf-8", "surrogateescape") for payload in payloads] == [
        *wanted,
        b"last",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_lines_that_cross_the_pieces_in_which_a_file_is_read(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(taskfile, "CHUNK", size)
    assert commands(b"\xef\xbb\xbfalpha\n\nbe\nlast"[3:]) == ["alpha", "be", "last"]
    with pytest.raises(TaskFileError, match="standard input:3: a NUL byte"):
        specs(b"alpha\nbeta\nga\0mma\n")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "this is a folder, not a task file; name a file in it"),
        (lambda path: None, "cannot read the task file: No such file or directory"),
        (lambda path: path.symlink_to(path), "cannot read the task file: Too many levels of symbolic links"),
    ],
    ids=["folder", "missing", "loop"],
)
def test_what_is_no_readable_file(tmp_path: Path, make: object, says: str) -> None:
    path = tmp_path / "tasks.txt"
    make(path)  # type: ignore[operator]
    with pytest.raises(TaskFileError) as caught:
        open_task_file(path)
    assert str(caught.value) == f"{path}: {says}"


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a\nb\n")
    os.close(writing)
    with open(reading, "rb") as pipe, open_task_file(pipe) as tasks:
        assert [spec.command for spec in tasks.specs()] == ["a", "b"]


@pytest.mark.parametrize("change", [b"a\nb\nc\n", b"a\n"], ids=["longer", "shorter"])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "tasks.txt"
    path.write_bytes(b"a\nb\n")
    with open_task_file(path) as tasks:
        path.write_bytes(change)
        with pytest.raises(TaskFileError, match="the file changed while it was read"):
            list(tasks.payloads())


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_bytes(b"".join(b"./simulate --seed=%d --steps=100000\n" % number for number in range(300_000)))
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        with open_task_file(path) as tasks:
            assert sum(1 for _ in tasks.payloads()) == 300_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A few pieces of 1 MiB, each as bytes and as lines.
    assert peak < 8_000_000
