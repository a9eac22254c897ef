"""A host list brought up to date: what people wrote stays, and what changes is said."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from roomful.errors import HostListError
from roomful.hosts import Host, parse_host, read_host_list
from roomful.list_update import ListUpdate, plan_update, read_lines

LIST = """\
# my machines

one.lab 2.0 1.5 rack=a   # the slow one
me@10.0.0.2 # by address
short # its name leads to 10.0.0.3
# the other room
away.lab 3
"""
FOUND = {
    "10.0.0.1": Host("one.lab"),
    "10.0.0.2": Host("two.lab"),
    "10.0.0.3": Host("three.lab"),
    "10.0.0.4": Host("four.lab"),
    "10.0.0.5": Host("10.0.0.5"),
}
NAMES = {"short": frozenset({"10.0.0.3"}), "away.lab": frozenset({"10.9.0.1"})}


def update(
    path: Path, found: Mapping[str, Host], prune: bool = False, names: Mapping[str, frozenset[str]] = NAMES
) -> ListUpdate:
    def look_up(wanted: Iterable[str]) -> Mapping[str, frozenset[str]]:
        return {name: names.get(name, frozenset()) for name in wanted}

    return plan_update(path, read_lines(path), found, look_up, prune=prune)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text(LIST)
    return path


def test_lines_stay_as_they_are_and_new_hosts_are_added(path: Path) -> None:
    change = update(path, FOUND)
    change.write()
    assert path.read_text() == LIST + "four.lab\n10.0.0.5\n"
    assert change.added == ("four.lab", "10.0.0.5")
    assert change.kept == ("one.lab", "me@10.0.0.2", "short")
    assert (change.missing, change.removed, change.count) == (("away.lab",), (), 6)


def test_prune_removes_what_was_not_found_and_only_that(path: Path) -> None:
    change = update(path, FOUND, prune=True)
    change.write()
    assert path.read_text() == LIST.replace("away.lab 3\n", "") + "four.lab\n10.0.0.5\n"
    assert (change.missing, change.removed, change.count) == ((), ("away.lab",), 5)


def test_a_second_update_changes_nothing_and_does_not_touch_the_file(path: Path) -> None:
    update(path, FOUND).write()
    os.utime(path, (1, 1))
    change = update(path, FOUND)
    change.write()
    assert (change.added, change.removed) == ((), ())
    assert path.stat().st_mtime == 1


def test_a_new_list(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "new.txt"
    update(path, FOUND).write()
    assert [host.label for host in read_host_list(path).hosts] == [host.label for host in FOUND.values()]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_a_list_without_hosts_keeps_its_comments(tmp_path: Path, text: str) -> None:
    path = tmp_path / "new.txt"
    path.write_text(text)
    update(path, {"10.0.0.1": Host("one.lab")}).write()
    assert path.read_text() == text.removeprefix("\n") + "one.lab\n"


def test_a_damaged_list_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    for text, line in (("one.lab\r\n", 1), ("one.lab\none.lab\n", 2), ("one.lab\n-x\n", 2)):
        path.write_bytes(text.encode())
        with pytest.raises(HostListError) as caught:
            read_lines(path)
        assert caught.value.where == f"{path}:{line}"
        assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("line", "found", "same"),
    [
        pytest.param("One.Lab", "one.lab", True, id="case"),
        pytest.param("x address=10.0.0.1", "one.lab", True, id="address-attribute"),
        pytest.param("10.0.0.1", "one.lab", True, id="address"),
        pytest.param("me@one.lab:2222", "one.lab:2222", True, id="user-and-port"),
        pytest.param("one.lab:2222", "one.lab", False, id="another-port"),
        pytest.param("one.lab", "one.lab:2222", False, id="another-port-found"),
        pytest.param("one.lab ssh_config=c", "one.lab:2222", True, id="port-from-ssh-config"),
        pytest.param("one", "one.lab", False, id="another-name"),
    ],
)
def test_which_line_is_the_host_that_was_found(tmp_path: Path, line: str, found: str, same: bool) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\n")
    change = update(path, {"10.0.0.1": parse_host(found)}, names={})
    assert change.added == (() if same else (found,))
    assert bool(change.kept) is same


def test_names_are_looked_up_only_where_nothing_else_tells(path: Path) -> None:
    asked: list[str] = []

    def look_up(names: Iterable[str]) -> dict[str, frozenset[str]]:
        asked.extend(names)
        return {}

    plan_update(path, read_lines(path), FOUND, look_up)
    assert asked == ["short", "away.lab"]
    asked.clear()
    plan_update(path, read_lines(path), {}, look_up)
    assert asked == []
