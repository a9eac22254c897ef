"""Folding the outputs of many hosts."""

from __future__ import annotations

from roomful.gather import LineMerger, differences, fold, gathered
from roomful.hosts import Host

HOSTS = [Host(f"n{i}") for i in range(1, 10)]


def test_identical_outputs_are_one_group_largest_first() -> None:
    outputs = {host: b"odd" if host.name == "n8" else b"same" for host in HOSTS}
    assert [(len(hosts), output) for hosts, output in fold(outputs)] == [(8, b"same"), (1, b"odd")]


def test_headers_are_clushs() -> None:
    outputs = {host: b"odd\n" if host.name == "n8" else b"same\xff" for host in HOSTS}
    assert b"".join(gathered(outputs)) == (
        b"---------------\nn[1-7,9] (8)\n---------------\nsame\xff\n---------------\nn8\n---------------\nodd\n"
    )


def test_differences_are_against_the_majority() -> None:
    outputs = {HOSTS[0]: b"a\nb\n", HOSTS[1]: b"a\nb\n", HOSTS[2]: b"a\nc"}
    text = b"".join(differences(outputs)).decode()
    assert text.startswith("---------------\nn1,n2 (2)\n---------------\na\nb\n---------------\nn3\n")
    assert text.endswith("--- n1,n2\n+++ n3\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")


def test_nothing_at_all() -> None:
    assert list(differences({})) == []
    assert list(gathered({HOSTS[0]: b""})) == [b"---------------\nn1\n---------------\n", b""]


def test_lines_are_whole_whatever_the_chunks() -> None:
    merger = LineMerger(HOSTS[0])
    assert merger.feed("stdout", b"one\ntw") == b"n1: one\n"
    assert merger.feed("stderr", b"bad\n") == b"n1: bad\n"
    assert merger.feed("stdout", b"o") == b""
    assert merger.feed("stdout", b"\n\nthree") == b"n1: two\nn1: \n"
    assert merger.end("stdout") == b"n1: three\n"
    assert merger.end("stdout") == b""
