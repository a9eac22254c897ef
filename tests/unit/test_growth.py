"""What rsync says of files that are complete, and how much more than was listed is taken."""

from __future__ import annotations

import pytest

from roomful import growth


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"out/a", b"out/a"),
        (b"sp ace", b"sp ace"),
        (b"new\\#012line", b"new\nline"),
        (b"\\#377\\#376", b"\xff\xfe"),
        (b"a\\b#012", b"a\\b#012"),
        (b"\\#134#012", b"\\#012"),
    ],
)
def test_names_are_read_as_rsync_prints_them(said: bytes, name: bytes) -> None:
    assert growth.unescaped(said) == name


def test_what_grows_a_little_is_taken_and_ten_times_as_much_is_not() -> None:
    assert growth.most(0) == growth.SLACK_BYTES
    assert 10**9 < growth.most(10**9) < 2 * 10**9
