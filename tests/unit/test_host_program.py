"""Programs for hosts: they run alone, under any Python, and their answers are read carefully."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from roomful.host_program import answer_of, program
from roomful.outcome import HostFailure

PROGRAMS = ["releases", "commit", "folders", "outputs", "clean", "relay"]
#: Every Python on this machine that the hosts may have, as pyenv keeps them.
PYTHONS = [
    python
    for python in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    if tuple(map(int, python.parts[-3].split(".")[:2])) >= (3, 8)
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_holds_all_it_needs(name: str) -> None:
    text = program(name)
    compile(text, name, "exec")
    assert "from roomful.workdir" in text


@pytest.mark.parametrize(
    ("exit_code", "stdout", "stderr", "reason", "detail"),
    [
        (1, b"", b"Traceback\nValueError: x\n", "exit 1", "ValueError: x"),
        (0, b"", b"", "error", "no answer from python3"),
        (0, b"welcome\n", b"", "error", "welcome"),
        (0, b"\nroomful-answer:[1]\n", b"", "error", ""),
        (0, b"\nroomful-answer:{\n", b"", "error", ""),
        (0, b'\nroomful-answer:{"failed": "quota", "detail": "full"}\n', b"", "quota", "full"),
    ],
)
def test_what_is_no_answer_is_a_failure(
    exit_code: int, stdout: bytes, stderr: bytes, reason: str, detail: str
) -> None:
    with pytest.raises(HostFailure) as failed:
        answer_of(exit_code, stdout, stderr)
    assert failed.value.reason == reason
    assert detail in failed.value.detail


def test_an_answer_is_found_behind_what_a_login_shell_prints() -> None:
    assert answer_of(0, b'welcome\nroomful-answer:{"x": 1}\n', b"noise") == {"x": 1}


@pytest.mark.parametrize(
    "python", [Path(sys.executable), *PYTHONS], ids=["this", *(path.parts[-3] for path in PYTHONS)]
)
def test_programs_run_alone_under_every_python(python: Path, tmp_path: Path) -> None:
    """As HostConnection.python runs them: isolated, without site packages, in another locale."""

    def run(name: str, request: dict[str, object]) -> dict[str, object]:
        done = subprocess.run(
            [python, "-I", "-S", "-c", program(name)],
            input=zlib.compress(json.dumps(request).encode()),
            capture_output=True,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C"},
            timeout=30,
            check=False,
        )
        return answer_of(done.returncode, done.stdout, done.stderr)

    made = run("folders", {"workdir": "~/w", "paths": ["a\udcff"], "mode": 0o700})
    assert made["created"] == ["a\udcff"]
    assert (Path(f"{tmp_path}/w/a\udcff")).is_dir()
    request = {"workdir": "~/w", "patterns": [], "run": "r", "index": 0, "declared": None, "settled": False}
    listed = run("outputs", request)
    assert listed["workdir"] == str(tmp_path.resolve() / "w")
