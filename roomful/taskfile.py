"""Task files: one task a line, as a plain command, a DistComp line or a JSON object.

The first task line decides which of the three a file is. A later line that looks like another kind is an error that
names both, because a mixed file is a mistake more often than a wish; naming the format settles it. Empty lines and
lines whose first character is ``#`` are skipped. Plain commands are kept byte for byte; only NUL is refused.

A file is read twice, in pieces: once to check every line, once to hand the tasks on. Nothing is submitted unless
all of it is good, and a file of a million lines needs no more memory than one of ten.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from roomful.agent.task import TaskClass, TaskSpec, decode_task, encode_task
from roomful.errors import InputError, TaskFileError
from roomful.task_lines import (
    LONGEST_COMMAND_BYTES,
    TaskDefaults,
    checked,
    parse_distcomp,
    parse_json,
)

Format = Literal["lines", "distcomp", "jsonl"]
FORMATS: tuple[Format, ...] = ("lines", "distcomp", "jsonl")
_FORMAT_NAMES = {"lines": "a plain command", "distcomp": "a DistComp line", "jsonl": "a JSON line"}

#: How a stream is called in messages.
STANDARD_INPUT = "standard input"
#: Bytes read at a time.
CHUNK = 1 << 20
#: A longer line is no task: what it holds besides the command (environment, arguments) is small.
LONGEST_LINE_BYTES = 1 << 20
#: Different heads of DistComp lines whose meaning is remembered.
_CACHED_HEADS = 10_000

_skipped = re.compile(rb"[ \t\r\f\v]*(?:#|\Z)").match
_other_kind = re.compile(rb"[ \t]*(?:(\{\s*[\"}])|(?:shell|python):|\w+:-?[0-9.]+:[0-9.]+:[0-9.]+:)").match


@dataclass(frozen=True)
class Need:
    """What some tasks of a file ask for, and the first line that does."""

    line: int
    cpu_milli: int
    memory_mib: int


@dataclass
class TaskFile:
    """A task file of which every line has been checked. A context manager: it keeps the file open."""

    name: str
    format: Format
    count: int
    needs: tuple[Need, ...]
    _file: BinaryIO = field(repr=False)
    _reader: _Reader = field(repr=False)
    _stamp: tuple[int, int] = field(repr=False)

    def __enter__(self) -> TaskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def payloads(self) -> Iterator[bytes]:
        """Yield every task in order as ``encode_task`` packs it.

        Raises TaskFileError if the file is no longer the one that was checked.
        """
        count = 0
        for _, lines in _chunks(self._file, self.name):
            for payload in self._reader.read(lines):
                count += 1
                yield payload
        if count != self.count or _stamp(self._file) != self._stamp:
            fix = "submit it again: what is queued already is skipped"
            raise TaskFileError("the file changed while it was read", where=self.name, fix=fix)

    def specs(self) -> Iterator[TaskSpec]:
        """Yield every task in order."""
        return map(decode_task, self.payloads())


def open_task_file(
    source: str | Path | BinaryIO, defaults: TaskDefaults | None = None, *, format: str = ""
) -> TaskFile:
    """Read and check a whole task file: a path, or a stream such as ``sys.stdin.buffer``.

    ``format`` is ``lines``, ``distcomp`` or ``jsonl``; empty: the first task line decides.
    Raises TaskFileError with file, line, value and what to do.
    """
    if format not in ("", *FORMATS):
        raise InputError(f"unknown format {format!r}", where="--format", fix=f"use {', '.join(FORMATS)}")
    defaults = defaults or TaskDefaults()
    checked(defaults.spec("true"))
    name, file = _open(source)
    try:
        stamp = _stamp(file)
        reader = _Reader(defaults, format)
        count = 0
        for first, lines in _chunks(file, name):
            count += reader.check(first, lines, name)
        if reader.format is None:
            empty = os.fstat(file.fileno()).st_size == 0
            what = "the file is empty" if empty else "no task in it, only comments and empty lines"
            raise TaskFileError(what, where=name, fix="write one command a line")
        needs = tuple(Need(line, *need) for need, line in reader.needs.items())
        return TaskFile(name, reader.format, count, needs, file, reader, stamp)
    except BaseException:
        file.close()
        raise


def _open(source: str | Path | BinaryIO) -> tuple[str, BinaryIO]:
    """Open the source so that it can be read twice; pipes are copied to a temporary file."""
    if not isinstance(source, (str, Path)):
        return STANDARD_INPUT, _copied(source)
    name = str(source)
    try:
        file = open(source, "rb")  # noqa: SIM115  # closed by TaskFile
    except IsADirectoryError:
        raise TaskFileError("this is a folder, not a task file", where=name, fix="name a file in it") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TaskFileError("cannot read the task file", where=name, why=why) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return name, file
    with file:
        return name, _copied(file)


def _copied(source: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # closed by TaskFile
    try:
        shutil.copyfileobj(source, copy, CHUNK)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _chunks(file: BinaryIO, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the file's lines in lists, each with the number of its first line."""
    file.seek(0)
    number, rest = 1, b""
    while True:
        try:
            chunk = file.read(CHUNK)
        except OSError as error:
            raise TaskFileError("cannot read on", where=name, why=error.strerror or str(error)) from None
        if not chunk:
            break
        if number == 1 and not rest:
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that Windows editors write
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if b"\0" in chunk:
            bad = next(index for index, line in enumerate([*lines, rest]) if b"\0" in line)
            why = "it looks like UTF-16, or like a binary file"
            raise TaskFileError("a NUL byte", where=f"{name}:{number + bad}", why=why, fix="write a text file")
        yield number, lines
        number += len(lines)
        if len(rest) > LONGEST_LINE_BYTES:
            what = f"a line of more than {LONGEST_LINE_BYTES:,} bytes"
            raise TaskFileError(what, where=f"{name}:{number}", fix="write one task a line")
    if rest:
        yield number, [rest]


class _Reader:
    """Turns lines into payloads; keeps what the first pass finds out."""

    def __init__(self, defaults: TaskDefaults, format: str) -> None:
        self.defaults = defaults
        self.format: Format | None = None
        self.wanted = format
        #: (cpu_milli, memory_mib) -> the first line that asks for it.
        self.needs: dict[tuple[int, int], int] = {}
        self._first_line = 0
        #: All of a plain task's payload but the command.
        self._plain = encode_task(defaults.spec("true")).removesuffix(b"true")
        self._heads: dict[bytes, bytes] = {}

    def check(self, first: int, lines: list[bytes], name: str) -> int:
        """Check lines and return how many tasks they hold; raises TaskFileError."""
        count = 0
        for number, line in enumerate(lines, first):
            if _skipped(line):
                continue
            try:
                if self.format is None:
                    self._start(number, line)
                if not self.wanted:
                    kind = _kind_of(line)
                    if kind != self.format:
                        self._refuse_mixture(kind)
                if self.format == "lines":
                    _check_plain(line)
                else:
                    self._payload(line, number)
            except TaskFileError as error:
                error.where = f"{name}:{number}"
                raise
            count += 1
        return count

    def read(self, lines: list[bytes]) -> Iterator[bytes]:
        """Turn lines that have been checked into payloads."""
        if self.format == "lines":
            plain = self._plain
            return (plain + line for line in lines if not _skipped(line))
        make = self._payload
        return (make(line) for line in lines if not _skipped(line))

    def _start(self, number: int, line: bytes) -> None:
        self.format = next((name for name in FORMATS if name == self.wanted), _kind_of(line))
        self._first_line = number
        if self.format == "lines":
            self._note_need(self._plain, number)

    def _refuse_mixture(self, kind: Format) -> None:
        assert self.format is not None
        raise TaskFileError(
            f"looks like {_FORMAT_NAMES[kind]}",
            why=f"line {self._first_line} is {_FORMAT_NAMES[self.format]}",
            fix="write all lines in one way, or say which it is with --format=lines, distcomp or jsonl",
        )

    def _payload(self, line: bytes, number: int = 0) -> bytes:
        if self.format == "jsonl":
            payload = encode_task(parse_json(line, self.defaults))
            self._note_need(payload, number)
            return payload
        _refuse_carriage_return(line)
        # Few different heads stand before many commands: each is parsed once.
        head, command = _split_head(line)
        prefix = self._heads.get(head)
        if prefix is None or not command.strip() or len(command) > LONGEST_COMMAND_BYTES or b"python" in head:
            spec = parse_distcomp(line, self.defaults)
            prefix = encode_task(spec).removesuffix(command)
            if len(self._heads) >= _CACHED_HEADS:
                self._heads.clear()
            self._heads[head] = prefix
            self._note_need(prefix, number)
        return prefix + command

    def _note_need(self, payload: bytes, number: int) -> None:
        group = TaskClass.parse(payload[: payload.index(b"\n")])
        self.needs.setdefault((group.cpu_milli, group.memory_mib), number)


def _kind_of(line: bytes) -> Format:
    """Tell what a line looks like. ``shell:...`` is meant as a DistComp line, even where it is a bad one."""
    match = _other_kind(line)
    if match is None:
        return "lines"
    return "jsonl" if match[1] else "distcomp"


def _split_head(line: bytes) -> tuple[bytes, bytes]:
    """Cut a DistComp line behind its fourth colon."""
    position = -1
    for _ in range(4):
        position = line.find(b":", position + 1)
        if position < 0:
            return line, b""
    return line[:position], line[position + 1 :]


def _check_plain(line: bytes) -> None:
    if line[-1:] == b"\r":
        _refuse_carriage_return(line)
    if len(line) > LONGEST_COMMAND_BYTES:
        checked(TaskSpec(command=line.decode("utf-8", "surrogateescape")))


def _refuse_carriage_return(line: bytes) -> None:
    if line.endswith(b"\r"):
        fix = "convert the file: sed -i 's/\\r$//' FILE"
        raise TaskFileError("the line ends with a carriage return (a Windows line end)", fix=fix)
