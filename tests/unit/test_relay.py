"""A relay's stream: what goes in comes out, and what is cut or leads elsewhere is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from roomful import host_program, lookout, relay
from roomful.errors import InputError
from roomful.manifest import scan
from tests.support.workdirs import make_tree

REQUEST = {
    "dest": "",
    "key": "top",
    "source": "stdin",
    "index": 4,
    "seed": "s",
    "hops": [],
    "limit": 600_001,
    "secret": "",
    "program": "",
    "silent": 0,
    "pieces": False,
}


def take(workdir: Path, stream: bytes) -> dict[str, Any]:
    """Run the program as on the last host of a chain."""
    request = REQUEST | {"workdir": str(workdir)}
    packed = zlib.compress(json.dumps(request).encode())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", host_program.program("relay")],
        input=b"%08d" % len(packed) + packed + stream,
        capture_output=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.decode().rpartition("roomful-answer:")[2])
    return answer


def seed(workdir: Path) -> Path:
    return workdir / ".roomful" / "deploy" / "top" / "staging" / "s"


def payload(folder: Path) -> bytes:
    manifest = scan(folder)
    files = [number for number, item in enumerate(manifest.items) if item.kind == "file"]
    return b"".join(relay._payload(manifest, files))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = make_tree(tmp_path / "source", {"a": "", "b/c d": "x" * 600_000, "new\nline": "y"})
    (folder / "a").chmod(0o750)
    os.utime(folder / "a", ns=(1, 1_234_567_891_234_567_891))
    return folder


def test_what_goes_in_comes_out(source: Path, tmp_path: Path) -> None:
    assert take(tmp_path / "work", payload(source)) == {"have": [4], "directly": [], "missed": []}
    for name in ("a", "b/c d", "new\nline"):
        ours, theirs = source / name, seed(tmp_path / "work") / name
        assert ours.read_bytes() == theirs.read_bytes()
        assert (ours.stat().st_mtime_ns, ours.stat().st_mode) == (theirs.stat().st_mtime_ns, theirs.stat().st_mode)


@pytest.mark.parametrize("missing", [1, 2, 100, 500_000])
def test_a_cut_payload_is_not_taken_for_a_whole_one(source: Path, tmp_path: Path, missing: int) -> None:
    assert take(tmp_path / "work", payload(source)[:-missing])["failed"] == "lost"


@pytest.mark.parametrize("path", ["../x", "/tmp/roomful-x", "a/../../x"])
def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    header = json.dumps({"path": path, "size": 1, "mode": 0o644, "mtime_ns": 0}).encode()
    assert take(tmp_path / "work", header + b"\nx\n")["failed"] == "protocol"
    assert not [found for found in tmp_path.rglob("*") if found.name in ("x", "roomful-x")]


def test_a_payload_that_stops_to_come_leaves_no_process(source: Path, tmp_path: Path) -> None:
    program = host_program.program("relay")
    assert "SILENCE_SECONDS = 150.0" in program
    request = REQUEST | {"workdir": str(tmp_path / "work")}
    packed = zlib.compress(json.dumps(request).encode())
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program.replace("SILENCE_SECONDS = 150.0", "SILENCE_SECONDS = 0.5")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"%08d" % len(packed) + packed + payload(source)[:-1000])
            process.stdin.flush()
            assert process.wait(timeout=10) == 1
        finally:
            process.kill()


def test_a_host_logs_in_on_the_next_only_if_that_has_the_key_we_know() -> None:
    argv = lookout.hop_argv("me", "node2", 2200)
    for option in ("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "BatchMode=yes", "ForwardAgent=no"):
        assert option in argv
    assert argv[-7:-1] == ["-p", "2200", "-l", "me", "--", "node2"]


def test_more_than_was_announced_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"path": "x", "size": 600_002, "mode": 0o644, "mtime_ns": 0}).encode()
    assert take(tmp_path / "work", header + b"\n")["failed"] == "protocol"


@pytest.mark.parametrize("line", [b"{}", b"[]", b"7", b'{"path": 1, "size": 1, "mode": 0, "mtime_ns": 0}', b"\xff"])
def test_what_is_no_payload_is_refused(tmp_path: Path, line: bytes) -> None:
    assert take(tmp_path / "work", line + b"\n")["failed"] == "protocol"


def test_an_unknown_mode_is_refused() -> None:
    assert relay.check_mode("auto") == "auto"
    with pytest.raises(InputError, match="chain"):
        relay.check_mode("yes")
