"""The example workload: its tasks are what its generator writes, and its program counts right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(checkout: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = words
    argv = [sys.executable, str(checkout / "resources" / program), *arguments]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_task_file_is_what_its_generator_writes(checkout: Path, tmp_path: Path) -> None:
    text = (checkout / "resources" / "tasks.txt").read_text()
    assert run(checkout, tmp_path, "make_tasks.py").stdout == text
    assert len(text.splitlines()) >= 200


@pytest.mark.parametrize(
    ("start", "stop", "count"),
    [(0, 2, 0), (0, 3, 1), (0, 100, 25), (100, 1000, 143), (7, 8, 1), (9, 10, 0), (999_999_000, 1_000_000_000, 45)],
)
def test_primes_are_counted(checkout: Path, tmp_path: Path, start: int, stop: int, count: int) -> None:
    done = run(checkout, tmp_path, "primes.py", str(start), str(stop), "out")
    assert json.loads(done.stdout) == {"start": start, "stop": stop, "primes": count}
    assert (tmp_path / "out" / f"{start}-{stop}.json").read_text() == done.stdout


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two hosts' counts that add up to the known answer."""
    for index, (host, primes) in enumerate((("a", 26_355_867), ("b", 24_491_667))):
        (tmp_path / host / "out").mkdir(parents=True)
        start, stop = index * 500_000_000, (index + 1) * 500_000_000
        document = {"start": start, "stop": stop, "primes": primes}
        (tmp_path / host / "out" / f"{start}-{stop}.json").write_text(json.dumps(document))
    return tmp_path


def test_the_sum_is_compared_with_the_known_answer(checkout: Path, results: Path) -> None:
    done = run(checkout, results, "check.py", ".")
    assert done.returncode == 0, done.stderr
    assert "2 ranges from 2 hosts: 50,847,534 primes below 1,000,000,000, as it should be" in done.stdout


@pytest.mark.parametrize("wrong", ["missing first", "missing last", "sum", "disagree"])
def test_what_is_wrong_is_named(checkout: Path, results: Path, wrong: str) -> None:
    first, last = results / "a" / "out" / "0-500000000.json", results / "b" / "out" / "500000000-1000000000.json"
    if wrong == "missing first":
        first.unlink()
    elif wrong == "missing last":
        last.unlink()
    elif wrong == "sum":
        last.write_text(last.read_text().replace("24491667", "24491668"))
    else:
        (results / "b" / "out" / "again.json").write_text(first.read_text().replace("26355867", "1"))
    done = run(checkout, results, "check.py", ".")
    assert done.returncode == 1
    assert {"missing first": "is missing", "missing last": "is missing", "sum": "wrong", "disagree": "disagrees"}[
        wrong
    ] in done.stderr
