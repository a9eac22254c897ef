"""The list of hosts that passed: which lists may be replaced, and how its lines stand in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.access import check_output, write_list
from roomful.errors import HostListError, InputError
from roomful.hosts import resolve
from roomful.settings import Settings

N7 = """\
# the lab

vador 2.0 1.5 gpu=yes  # the dark side
kenobi
# upstairs
yoda port=none # small
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "host_lists"
    folder.mkdir()
    (folder / "n7.txt").write_text(N7)
    (folder / "more.txt").write_text("leia 3.0 # princess\nhan\n")
    (folder / "other.txt").write_text("kenobi\njabba\nboba\nlando\nackbar\n")
    return Settings(root=tmp_path)


def written(settings: Settings, spec: str, keep: str, output: str = "out", exclude: str = "") -> str:
    hosts = resolve(spec, settings, exclude)
    path = check_output(output, spec, settings, hosts)
    write_list(path, spec, settings, [host for host in hosts if host.name in keep.split()])
    return path.read_text()


def test_lines_and_comments_stay_as_they_are(settings: Settings) -> None:
    text = "# the lab\n\nvador 2.0 1.5 gpu=yes  # the dark side\n# upstairs\nyoda port=none # small\n"
    assert written(settings, "n7", "vador yoda") == text
    assert (settings.root / "host_lists" / "n7.txt").read_text() == N7


def test_a_path_is_a_list_too(settings: Settings) -> None:
    assert written(settings, str(settings.root / "host_lists" / "n7.txt"), "kenobi") == (
        "# the lab\n\nkenobi\n# upstairs\n"
    )


def test_the_setting_is_taken_where_no_hosts_are_given(settings: Settings) -> None:
    assert "kenobi\n" in written(settings.replace(hosts="n7"), "", "kenobi")


def test_hosts_that_were_excluded_are_not_on_the_list(settings: Settings) -> None:
    assert written(settings, "n7", "vador yoda", exclude="kenobi") == N7.replace("kenobi\n", "")


def test_of_several_lists_every_host_has_its_line(settings: Settings) -> None:
    assert written(settings, "more,n7,node[1-3]", "leia vador node2 han") == (
        "leia 3.0 # princess\nhan\nvador 2.0 1.5 gpu=yes  # the dark side\nnode2\n"
    )


def test_a_list_may_be_replaced_by_what_is_left_of_it(settings: Settings) -> None:
    assert written(settings, "n7", "kenobi", output="n7") == "# the lab\n\nkenobi\n# upstairs\n"


def test_an_earlier_result_may_be_replaced(settings: Settings) -> None:
    for keep in ("vador", "kenobi yoda", "vador"):
        assert f"{keep.split()[0]}" in written(settings, "n7", keep)
    for keep in ("node1", "node1 node2"):
        assert written(settings, "node[1-3]", keep, output="nodes") == "".join(f"{name}\n" for name in keep.split())


def test_a_list_with_hosts_that_nobody_checked_is_not_replaced(settings: Settings) -> None:
    path = settings.root / "host_lists" / "other.txt"
    before = path.read_text()
    with pytest.raises(InputError) as caught:
        written(settings, "n7", "kenobi", output="other")
    assert str(caught.value) == (
        f"{path}: will not replace this list: it holds hosts that were not checked: jabba, boba, lando and 1 more; "
        "choose another --output"
    )
    assert path.read_text() == before


def test_a_damaged_list_is_not_replaced(settings: Settings) -> None:
    (settings.root / "host_lists" / "bad.txt").write_text("-x\n")
    with pytest.raises(HostListError, match=r"bad\.txt:1"):
        written(settings, "n7", "kenobi", output="bad")


def test_a_list_that_could_not_be_written_is_refused_before_anything_is_asked(settings: Settings) -> None:
    (settings.root / "file").touch()
    for output in ("/dev/null/x/y", str(settings.root / "file" / "list"), f"{settings.root}/", "/proc/list.txt"):
        with pytest.raises(InputError, match="cannot write a host list"):
            check_output(output, "n7", settings, [])
    # A folder that is not there yet is made later.
    new = settings.root / "not" / "yet" / "list.txt"
    assert check_output(str(new), "n7", settings, []) == new
    assert not (settings.root / "not").exists()
