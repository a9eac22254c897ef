"""The mode of created folders, as it is typed."""

from __future__ import annotations

import pytest

from roomful.errors import InputError
from roomful.folders import parse_mode


@pytest.mark.parametrize(("text", "mode"), [("", None), ("750", 0o750), ("2775", 0o2775), ("700", 0o700)])
def test_modes(text: str, mode: int | None) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9z", "bad --mode '9z'; give"),
        ("77", "bad"),
        ("rwx", "bad"),
        ("-1", "bad"),
        ("077", "could not use"),
        ("0", "bad"),
    ],
)
def test_bad_modes(text: str, said: str) -> None:
    with pytest.raises(InputError, match="--mode") as caught:
        parse_mode(text)
    assert said in str(caught.value)
