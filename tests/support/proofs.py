"""Whether the tests would notice: each proof breaks one thing on purpose, and the tests named for it must fail.

A proof is a ``[[proof]]`` of ``tests/proofs/*.toml``::

    says = "a task is not retried on the host it failed on"   # the sentence that is promised
    tests = ["tests/integration/test_promises_busy.py::test_elsewhere"]
    file = "roomful/agent/scripts/claim.lua"                   # what is broken: this text ...
    replace = '''...'''                                        # ... stands there exactly once
    with = '''...'''
    also = [{file = "...", replace = '...', with = '...'}]     # and this, where a thing is protected twice

``python -m tests.support.proofs [--list] [TEXT...]`` (``inv dev.prove``) carries out those that contain the texts,
each in a copy of the checkout, after it has seen that their tests pass in a copy where nothing is broken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / "tests" / "proofs"
#: The tests of one proof, in seconds; a test has a deadline of its own, too.
LONGEST = 300
#: Characters of what a failure says that are shown.
REASON_WIDTH = 150


@dataclass(frozen=True)
class Edit:
    """A text of a file, and what stands there instead once it is broken."""

    file: str
    replace: str
    by: str

    def apply(self, checkout: Path) -> None:
        """Break it in ``checkout``; raises ValueError where the text does not stand there exactly once."""
        path = checkout / self.file
        text = path.read_text()
        if text.count(self.replace) != 1:
            raise ValueError(f"{self.file} holds {text.count(self.replace)} times, not once: {self.replace!r}")
        # A file of its own: the copy may share this one with the checkout.
        path.unlink()
        path.write_text(text.replace(self.replace, self.by))


@dataclass(frozen=True)
class Proof:
    """One sentence, the tests that hold it, and a way to break it."""

    area: str
    says: str
    tests: tuple[str, ...]
    file: str
    replace: str
    by: str
    also: tuple[Edit, ...] = ()

    def matches(self, texts: Sequence[str]) -> bool:
        """Whether each of the texts stands in the area, the sentence, the file or a test's name."""
        whole = " ".join((self.area, self.says, self.file, *self.tests)).lower()
        return all(text.lower() in whole for text in texts)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All that is broken at a time."""
        return (Edit(self.file, self.replace, self.by), *self.also)

    def apply(self, checkout: Path) -> None:
        """Break it in ``checkout``; raises ValueError where a text does not stand there exactly once."""
        for edit in self.edits:
            edit.apply(checkout)


def load(folder: Path = FOLDER) -> list[Proof]:
    """Return all proofs, in the order of the files and within them; raises KeyError where one is incomplete."""
    entries = [
        (path, entry) for path in sorted(folder.glob("*.toml")) for entry in tomllib.loads(path.read_text())["proof"]
    ]
    return [_proof(path.stem, entry) for path, entry in entries]


def _proof(area: str, entry: Mapping[str, Any]) -> Proof:
    also = [Edit(more["file"], more["replace"], more["with"]) for more in entry.get("also", ())]
    tests = tuple(entry["tests"])
    return Proof(area, entry["says"], tests, entry["file"], entry["replace"], entry["with"], tuple(also))


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of the checkout with a .venv of its own. Not below /tmp: a lab's hosts have one each."""
    folder = Path(tempfile.mkdtemp(prefix="roomful-proof-", dir="/var/tmp"))
    try:
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, names):
            source, target = CHECKOUT / name, folder / name
            if source.is_symlink() or source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        _environment(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> None:
    """Make the copy's .venv: all that names the checkout is its own, what was installed is the checkout's."""
    old, new = CHECKOUT / ".venv", folder / ".venv"
    shutil.copytree(old / "bin", new / "bin", symlinks=True)
    shutil.copy2(old / "pyvenv.cfg", new)
    for packages in old.glob("lib/python*/site-packages"):
        (target := new / packages.relative_to(old)).mkdir(parents=True)
        for path in packages.iterdir():
            if path.suffix == ".pth":
                shutil.copy2(path, target)
            else:
                (target / path.name).symlink_to(path)
    for path in (*new.glob("lib/python*/site-packages/*.pth"), *new.glob("bin/*")):
        if path.is_file() and not path.is_symlink() and str(CHECKOUT).encode() in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(str(CHECKOUT).encode(), str(folder).encode()))


@dataclass(frozen=True)
class Seen:
    """How tests ended: names of those that passed (or were skipped), that failed, and that could not even run."""

    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    #: Why nothing is known of them.
    trouble: str = ""
    #: What each failure said, in a line.
    reasons: tuple[str, ...] = field(default=(), compare=False)


def run(checkout: Path, tests: Sequence[str], longest: float = LONGEST) -> Seen:
    """Run tests in a copy."""
    python, report = checkout / ".venv" / "bin" / "python", checkout / "seen.xml"
    argv = [python, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}"}
    try:
        done = subprocess.run(
            argv, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=longest, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Seen(trouble=f"no end within {longest:g} s")
    if not report.exists() or done.returncode not in (0, 1):
        return Seen(trouble=f"pytest ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    found: dict[str, list[str]] = {"passed": [], "failed": [], "error": []}
    reasons = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        how = next((kind for kind in ("error", "failure") if case.find(kind) is not None), "passed")
        found["failed" if how == "failure" else how].append(name)
        for failure in case.iterfind("failure"):
            said = " ".join(failure.get("message", "").split())
            reasons.append(f"{name.partition('::')[2]}: {said[:REASON_WIDTH]}")
    # What has failed may well leave something that its clean-up stumbles over.
    found["error"] = [name for name in found["error"] if name not in found["failed"]]
    return Seen(*(tuple(found[kind]) for kind in ("passed", "failed", "error")), reasons=tuple(reasons))


def broken(proof: Proof) -> Seen:
    """Break it in a copy, and run its tests there."""
    with copied() as checkout:
        proof.apply(checkout)
        return run(checkout, proof.tests)


def verdict(seen: Seen) -> str:
    """Return ``held`` if each of a proof's tests failed, else what happened."""
    if seen.trouble or seen.broken:
        return seen.trouble or f"could not run: {', '.join(seen.broken)}"
    return f"NOT NOTICED by {', '.join(seen.passed)}" if seen.passed or not seen.failed else "held"


def unfit(proofs: Sequence[Proof]) -> str:
    """Run all tests of the proofs where nothing is broken; say which of them fail even so, and prove nothing."""
    tests = sorted({test for proof in proofs for test in proof.tests})
    with copied() as checkout:
        seen = run(checkout, tests, LONGEST + 30 * len(tests))
    return seen.trouble or ", ".join((*seen.failed, *seen.broken))


def main(words: Sequence[str]) -> int:
    """Carry out the proofs that contain ``words``, or list them; returns 1 if a test did not notice."""
    listing, texts = "--list" in words, [word for word in words if word != "--list"]
    proofs = [proof for proof in load() if proof.matches(texts)]
    if listing:
        rows = [(proof.area, proof.says, "\n".join(proof.tests)) for proof in proofs]
        print(tabulate(rows, ("area", "sentence", "its tests"), maxcolwidths=[None, 60, None]))  # noqa: T201
        return int(not rows)
    if proofs and (failing := unfit(proofs)):
        print(f"nothing is broken, and these fail: {failing}", file=sys.stderr)  # noqa: T201
        return 1
    rows = []
    for number, proof in enumerate(proofs, 1):
        begin = time.monotonic()
        said = verdict(seen := broken(proof))
        rows.append((proof.area, proof.says, said))
        line = f"[{number}/{len(proofs)}] {said} ({time.monotonic() - begin:.0f} s): {proof.says}"
        # Whether they fail for the right reason, a reader must judge.
        print("\n    ".join((line, *seen.reasons)), file=sys.stderr, flush=True)  # noqa: T201
    failed = sum(said != "held" for *_, said in rows)
    print(tabulate(rows, ("area", "sentence", "its tests"), maxcolwidths=[None, 70, 60]))  # noqa: T201
    print(f"{len(rows) - failed} of {len(rows)} held")  # noqa: T201
    return int(bool(failed) or not rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
