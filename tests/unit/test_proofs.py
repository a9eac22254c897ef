"""The list of proofs stays true to the code: what it breaks is there, and so are the tests that must notice."""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import proofs
from tests.support.proofs import CHECKOUT, Proof, broken, load, run, verdict

PROOFS = load()


@functools.cache
def names_in(path: Path) -> set[str]:
    """Return the names of the test functions in a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: f"{proof.area}: {proof.says}")
def test_a_proof_breaks_something_that_is_there(proof: Proof) -> None:
    for edit in proof.edits:
        assert (CHECKOUT / edit.file).read_text().count(edit.replace) == 1, edit
        assert edit.by != edit.replace
    assert proof.tests
    for test in proof.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in names_in(CHECKOUT / path), test


def test_each_sentence_stands_once() -> None:
    said = [(proof.area, proof.says) for proof in PROOFS]

    assert len(said) == len(set(said))


#: One number is the product; the tests say of it what they can.
TESTS = """
import pytest
from pathlib import Path

NUMBER = int(Path(__file__).with_name("number").read_text())

@pytest.fixture
def broken():
    assert NUMBER == 1

@pytest.fixture
def untidy():
    yield
    assert NUMBER == 1

def test_notices(): assert NUMBER == 1
def test_leaves_things(untidy): assert NUMBER == 1
def test_does_not(): assert NUMBER
def test_skips(): pytest.skip("not here")
def test_cannot(broken): pass
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one number."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:valkey\n")
    (tmp_path / "number").write_text("1\n")
    (tmp_path / "test_number.py").write_text(TESTS)
    return tmp_path


def test_what_passes_and_fails_is_told_apart(checkout: Path) -> None:
    (checkout / "number").write_text("2\n")
    name = "test_number.py::test_"
    seen = run(checkout, ["test_number.py"])
    assert seen.reasons == ("test_notices: assert 2 == 1", "test_leaves_things: assert 2 == 1")
    assert seen == proofs.Seen(
        passed=(f"{name}does_not", f"{name}skips"),
        failed=(f"{name}notices", f"{name}leaves_things"),
        broken=(f"{name}cannot",),
    )
    assert run(checkout, ["test_number.py::test_nothing"]).trouble.startswith("pytest ended with 4")


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (["notices"], "held"),
        (["notices", "does_not"], "NOT NOTICED by test_number.py::test_does_not"),
        (["skips"], "NOT NOTICED by test_number.py::test_skips"),
        (["notices", "cannot"], "could not run: test_number.py::test_cannot"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_proof_holds_only_if_every_test_fails(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tests: list[str], said: str
) -> None:
    @contextlib.contextmanager
    def copied() -> Iterator[Path]:
        yield checkout

    monkeypatch.setattr(proofs, "copied", copied)
    names = tuple(f"test_number.py::test_{name}" for name in tests)
    assert verdict(broken(Proof("area", "the number is 1", names, "number", "1", "2"))) == said
