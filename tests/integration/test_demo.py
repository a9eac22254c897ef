"""`inv demo` as the README's first command: what a newcomer sees, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from roomful.lab import labs
from tests.support.lab import NAMESPACE_PROGRAMS, ROOTLESS_PROGRAMS, missing, need

ROOT = Path(__file__).parents[2]


def traces() -> set[str]:
    """Return whatever a demo could leave: files, processes, network namespaces, labs."""
    found = {str(path) for path in Path(tempfile.gettempdir()).glob("roomful-demo-*")}
    for folder in (Path("/var/tmp"), Path("/tmp")):
        found |= {str(path) for path in (folder / f"roomful-{os.getuid()}").glob("roomful-demo-*")}
    found |= {f"lab {room.name}" for room in labs() if room.name.startswith("demo")}
    found |= {str(path) for path in Path("/run/netns").glob("rf-demo*")}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "roomful-demo-" in line or "/demo/hosts/" in line:
            found.add(f"process {folder.name}: {line}")
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("words", [pytest.param([], id="as-it-comes"), pytest.param(["--rootless"], id="rootless")])
def test_the_demo_computes_the_known_answer_and_leaves_nothing(words: list[str]) -> None:
    rootless = bool(words) or os.geteuid() != 0
    need(missing({**(ROOTLESS_PROGRAMS if rootless else NAMESPACE_PROGRAMS), "nmap": "nmap", "rsync": "rsync"}))
    assert traces() == set()
    start = time.monotonic()
    argv = [sys.executable, "-m", "invoke", "demo", *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - start < 90
    assert "50,847,534 primes below 1,000,000,000, as it should be" in done.stdout
    assert "250 done, 0 failed" in done.stdout + done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("lab0")}
    assert "lab06" in rows
    filtered = done.stdout.split("$ inv filter", 1)[1].split("\n$ ", 1)[0]
    assert any(line.startswith("lab07") and "unreachable" in line for line in filtered.splitlines())
    assert any(line.startswith("lab08") and "auth" in line for line in filtered.splitlines())
    assert traces() == set()
