"""The list of proofs stays true to the code: what it breaks is there, and so are the tests that must notice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.proofs import CHECKOUT, Proof, load

PROOFS = load()


def names_in(path: Path) -> set[str]:
    """Return the names of the test functions in a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: f"{proof.area}: {proof.says}")
def test_a_proof_breaks_something_that_is_there(proof: Proof) -> None:
    assert (CHECKOUT / proof.file).read_text().count(proof.replace) == 1
    assert proof.by != proof.replace
    assert proof.tests
    for test in proof.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in names_in(CHECKOUT / path), test


def test_each_sentence_stands_once() -> None:
    said = [(proof.area, proof.says) for proof in PROOFS]

    assert len(said) == len(set(said))
