"""A secret shows itself to nobody who does not ask for it."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from roomful.secret import Secret

SECRET = Secret("sesame")


@pytest.mark.parametrize(
    "shown", [repr(SECRET), str(SECRET), f"{SECRET}", f"{[SECRET]}", json.dumps(SECRET, default=str)]
)
def test_it_is_masked(shown: str) -> None:
    assert "sesame" not in shown


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy, vars])
def test_it_is_not_written_anywhere(write: object) -> None:
    with pytest.raises(TypeError):
        write(SECRET)  # type: ignore[operator]  # a function


def test_it_reveals_itself() -> None:
    assert SECRET.reveal() == "sesame"
