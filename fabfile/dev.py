"""For those who work on Roomful itself; not part of the wheel."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from invoke import Context

from roomful.errors import InputError, RoomfulError

from ._step import step

CHECKOUT = Path(__file__).resolve().parent.parent

CHECKS = {
    "lint": ("ruff", "check"),
    "format": ("ruff", "format", "--check"),
    "types": ("mypy",),
    "unit tests": ("pytest", "-q", "tests/unit"),
}


@step(help={"fix": "let ruff mend what it can before the checks"})
def check(c: Context, fix: bool = False) -> None:
    """Development: check lint, format, types and unit tests.

    Example:
        inv dev.check
        inv dev.check --fix
    """
    if fix:
        _call("ruff", "check", "--fix", "--quiet")
        _call("ruff", "format", "--quiet")
    failed = []
    for name, arguments in CHECKS.items():
        begin = time.monotonic()
        passed = _call(*arguments) == 0
        print(f"{name}: {'ok' if passed else 'FAILED'} ({time.monotonic() - begin:.1f} s)", file=sys.stderr)
        if not passed:
            failed.append(name)
    if failed:
        raise RoomfulError(f"not in order: {', '.join(failed)}")


@step()
def test(c: Context) -> None:
    """Development: run all the tests, on real SSH servers and a real queue.

    Example:
        inv dev.test
    """
    if _call("pytest"):
        raise RoomfulError("the tests did not pass")


@step(extra="name", chained=False, help={"name": "a module of tests/bench; without it: which there are"})
def bench(c: Context, name: str = "") -> None:
    """Development: run a benchmark, or list them.

    Example:
        inv dev.bench
        inv dev.bench fanout
    """
    folder = CHECKOUT / "tests" / "bench"
    found = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if not name:
        print("\n".join(found))
    elif name not in found:
        raise InputError(f"no benchmark {name}", fix=f"there are: {', '.join(found)}")
    elif _call(f"tests.bench.{name}"):
        raise RoomfulError(f"the benchmark {name} failed")


@step(
    extra="texts",
    chained=False,
    help={
        "texts": "words that a proof's area, sentence, file or test must contain",
        "list": "only list the sentences with their tests",
    },
)
def prove(c: Context, texts: list[str], list: bool = False) -> None:
    """Development: break what is promised, one sentence at a time, and see that the tests named for it fail.

    Example:
        inv dev.prove
        inv dev.prove priority
        inv dev.prove --list queue_tasks
    """
    if _call("tests.support.proofs", *(["--list"] if list else []), *texts):
        raise RoomfulError("a test did not notice, or there is no such proof")


def _call(module: str, *arguments: str) -> int:
    """Run a Python module in the checkout and return its exit code."""
    # What this process has buffered must come before what the module writes.
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=CHECKOUT, check=False).returncode
