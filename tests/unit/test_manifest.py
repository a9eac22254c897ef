"""What is deployed: scanning SOURCE, patterns, digests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from roomful.errors import InputError
from roomful.manifest import Exclusions, Manifest, scan, wire_bytes, wire_text

ODD_NAMES = [
    b"sp ace",
    b"-dash",
    b"#hash",
    b";semi",
    b"new\nline",
    b'quo"te',
    b"it's",
    b"\xff\xfe",
    b"$(x)`y`",
    b"a\\b",
]


def names(manifest: Manifest) -> list[bytes]:
    return [item.path for item in manifest.items]


@pytest.mark.parametrize(
    ("pattern", "left_out", "kept"),
    [
        ("*.o", ["a.o", "d/b.o"], ["a.c", "o"]),
        ("build/", ["build/", "x/build/"], ["build", "rebuild/"]),
        ("/data", ["data", "data/"], ["x/data"]),
        ("in/out", ["in/out", "x/in/out"], ["in/out/x", "main/out"]),
        ("a**z", ["a/b/z", "az"], ["b"]),
        ("?.txt", ["a.txt", "d/b.txt"], ["ab.txt", ".txt"]),
        ("[ab]*", ["a", "bcd"], ["c"]),
        ("[!ab]", ["c"], ["a", "b"]),
        ("[]x]", ["]", "x"], ["a"]),
        ("a\\*", ["a*"], ["ab"]),
        ("é*", ["état"], ["etat"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb", ["a\nb"], ["a"]),
    ],
)
def test_patterns_mean_what_they_mean_to_rsync(pattern: str, left_out: list[str], kept: list[str]) -> None:
    exclusions = Exclusions([pattern])

    def match(path: str) -> bool:
        return exclusions.match(path.rstrip("/").encode(), path.endswith("/"))

    assert [path for path in left_out if not match(path)] == []
    assert [path for path in kept if match(path)] == []


@pytest.mark.parametrize("pattern", ["", "/", "a\0b", "[b-a]"])
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="--exclude"):
        Exclusions([pattern])


def test_everything_is_listed_parents_first_with_any_name(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    (tmp_path / "empty").mkdir(mode=0o500)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.sh").write_text("x")
    (tmp_path / "deep" / "er" / "x.sh").chmod(0o4755)
    (tmp_path / "deep" / "up").symlink_to("../empty")
    manifest = scan(tmp_path).hashed()
    assert set(names(manifest)) == {*ODD_NAMES, b"empty", b"deep", b"deep/er", b"deep/er/x.sh", b"deep/up"}
    assert names(manifest).index(b"deep") < names(manifest).index(b"deep/er") < names(manifest).index(b"deep/er/x.sh")
    found = {item.path: item for item in manifest.items}
    assert found[b"deep/er/x.sh"].mode == 0o755
    assert (found[b"empty"].kind, found[b"empty"].mode) == ("folder", 0o700)
    assert (found[b"deep/up"].kind, found[b"deep/up"].content) == ("link", "../empty")
    assert manifest.size == sum(map(len, ODD_NAMES)) + 1
    assert all(wire_bytes(wire_text(name)) == name for name in ODD_NAMES)


def test_what_nobody_wants_deployed_is_left_out(tmp_path: Path) -> None:
    for folder in (".git", "a/__pycache__", ".venv", ".roomful"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x").write_text("x")
    (tmp_path / "a" / ".gitignore").write_text("x")
    assert names(scan(tmp_path)) == [b"a", b"a/.gitignore"]


def test_a_single_file_is_deployed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    (tmp_path / "one").write_text("x")
    manifest = scan(tmp_path / "one")
    assert (manifest.root, names(manifest)) == (os.fsencode(tmp_path.resolve()), [b"one"])


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../secret", "d/../../secret", "up/../secret"],
    ids=["absolute", "up", "through", "physical"],
)
def test_a_link_that_leads_out_is_refused_with_both_names(tmp_path: Path, target: str) -> None:
    source = tmp_path / "source"
    (source / "d" / "e").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    # To the text of "up/../secret" this is source/secret; the kernel goes to the folder above source.
    (source / "up").symlink_to("d/e/../..")
    (source / "link").symlink_to(target)
    with pytest.raises(InputError) as refused:
        scan(source)
    assert str(source / "link") in str(refused.value)
    assert target in str(refused.value)
    assert scan(source, ["link"]).items


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ok").write_text("x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    with pytest.raises(InputError, match="a socket, a pipe or a device"):
        scan(tmp_path)


@pytest.mark.parametrize("missing", ["nowhere", "empty", "only"])
def test_nothing_to_deploy_is_refused(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only" / ".git").mkdir(parents=True)
    with pytest.raises(InputError, match=missing):
        scan(tmp_path / missing)


def test_digests_change_with_content_mode_name_and_target_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "b").write_text("1")
    seen = [scan(tmp_path).hashed().entry_digests()]

    def changed() -> list[str]:
        seen.append(scan(tmp_path).hashed().entry_digests())
        return [name for name in seen[-1] if seen[-1][name] != seen[-2].get(name)]

    os.utime(tmp_path / "a" / "x", (1, 1))
    assert changed() == []
    (tmp_path / "a" / "x").write_text("2")
    assert changed() == ["a"]
    (tmp_path / "b").chmod(0o755)
    assert changed() == ["b"]
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert changed() == ["a"]
    (tmp_path / "c").symlink_to("a")
    assert changed() == ["c"]
    (tmp_path / "c").unlink()
    (tmp_path / "c").symlink_to("b")
    assert changed() == ["c"]


def test_a_name_that_starts_like_a_comment_is_no_comment_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "#x").write_text("")
    assert scan(tmp_path).file_list() == b"./#x\0"
