"""Paths given for the hosts."""

from __future__ import annotations

import pytest

from roomful.errors import InputError
from roomful.paths import inside_workdir, key_of


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("out", "out"),
        ("./a//b/", "a/b"),
        ("a b", "a b"),
        ("-x", "-x"),
        ("*.json", "*.json"),
        ("a/..b", "a/..b"),
        ("données", "données"),
    ],
)
def test_a_path_in_the_workdir_is_taken_in_its_plain_form(given: str, plain: str) -> None:
    assert inside_workdir(given, "path") == plain


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "it is empty"),
        (".", "it is empty"),
        ("/etc", "it is absolute"),
        ("..", "it holds '..'"),
        ("a/../b", "it holds '..'"),
        ("~/x", "it starts with '~'"),
        ("a\nb", "it holds a control character"),
        ("a\0b", "it holds a control character"),
        (".roomful", "is Roomful's own"),
        ("./.roomful/deploy", "is Roomful's own"),
        ("é" * 128, "longer than 255 bytes"),
    ],
)
def test_anything_else_is_refused_with_the_reason(given: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        inside_workdir(given, "folder")
    assert refused.value.exit_code == 2
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_different_paths_have_different_keys_that_are_file_names() -> None:
    paths = ["", "top", "a", "a/b", "a%2Fb", "in-a", "é", "\udcff", "x" * 255, "x" * 254, f"{'y' * 200}/{'z' * 200}"]
    keys = [key_of(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert all(len(key) <= 130 and "/" not in key and key.isascii() for key in keys)
