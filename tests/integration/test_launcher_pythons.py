"""The launcher on every Python that a host may have."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.multiplex import launcher_argv, launcher_source
from roomful.remote import frames

VERSIONS = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pyenv" / "versions"


def pythons() -> list[str]:
    """This Python, and those of pyenv from 3.8 on."""
    found = [sys.executable]
    for folder in sorted(VERSIONS.glob("3.*")) if VERSIONS.is_dir() else ():
        match = re.match(r"3\.(\d+)", folder.name)
        if match and int(match[1]) >= 8:
            found.append(str(folder / "bin" / "python3"))
    return found


def received(process: subprocess.Popen[bytes]) -> Iterator[frames.Frame]:
    assert process.stdout
    unpacker = frames.Unpacker()
    while data := os.read(process.stdout.fileno(), 1 << 16):
        yield from unpacker.feed(data)


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name)
def test_the_launcher_serves_on(python: str) -> None:
    source = launcher_source()
    argv = [python, *launcher_argv(len(source))[1:]]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        job = {"shell": "cat; sleep 1000 & exit 5", "line_buffered": True, "stdout": True}
        process.stdin.write(source)
        process.stdin.write(frames.pack(frames.START, 7, json.dumps(job).encode()))
        process.stdin.write(frames.pack(frames.INPUT, 7, b"bytes\xff"))
        process.stdin.write(frames.pack(frames.INPUT, 7))
        process.stdin.flush()
        seen: dict[int, bytes] = {}
        for kind, number, payload in received(process):
            assert number in (0, 7)
            seen[kind] = seen.get(kind, b"") + payload
            if kind == frames.EXITED:
                process.stdin.write(frames.pack(frames.KILL, 7))
                process.stdin.flush()
            if kind == frames.GONE:
                process.stdin.close()
        assert seen[frames.OUTPUT] == b"bytes\xff"
        assert frames.STATUS.unpack(seen[frames.EXITED])[0] == 5
        about = json.loads(seen[frames.HELLO])
        assert about["pid"] == process.pid
        assert process.wait(10) == 0
