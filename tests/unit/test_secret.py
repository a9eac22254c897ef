"""A secret shows itself to nobody who does not ask for it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest

from roomful.secret import Secret

SECRET = Secret("sesame")
WAYS: dict[str, Callable[[Secret], str]] = {
    "repr": repr,
    "str": str,
    "format": "{0} {0!r:>20}".format,
    "in a list": lambda secret: str([secret]),
    "json": lambda secret: json.dumps([secret], default=str),
}


@pytest.mark.parametrize("show", WAYS.values(), ids=WAYS)
def test_it_is_masked(show: Callable[[Secret], str]) -> None:
    assert "sesame" not in show(SECRET)


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy, vars], ids=["pickle", "copy", "vars"])
def test_it_is_not_written_anywhere(write: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError):
        write(SECRET)


def test_it_reveals_itself() -> None:
    assert SECRET.reveal() == "sesame"
