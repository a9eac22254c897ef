"""What hosts say is to be collected: taken, shared, or refused."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from roomful.collect import Collected, _folders, _Listing, _listing, _shared
from roomful.errors import InputError
from roomful.hosts import parse_host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.workdir.outputs import Outputs, list_outputs, pack
from tests.support.workdirs import Workdir


def answer(files: dict[bytes, int]) -> dict[str, Any]:
    return {"files": pack(files), "skipped": [], "seen": [], "workdir": "/w"}


def test_any_file_name_survives_the_way_here() -> None:
    files = {b"a": 0, b"d/new\nline": 3, b"\xff\xfe": 10**12, b" lead": 1, b"-x": 2}
    assert _listing(answer(files)).files == files


@pytest.mark.parametrize("path", [b"/etc/passwd", b"../x", b"a/../../x", b"a//b", b"", b"a/./b", b".."])
def test_a_name_that_leaves_the_hosts_folder_is_refused(path: bytes) -> None:
    with pytest.raises(HostFailure) as refused:
        _listing(answer({b"ok": 1, path: 1}))
    assert refused.value.reason == "protocol"


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        (b"d/" + b"n" * 255, True),
        (b"d/" + b"n" * 256, False),
        (b"d" * 256 + b"/n", False),
        ((b"d" * 99 + b"/") * 40 + b"n" * 95, True),
        ((b"d" * 99 + b"/") * 40 + b"n" * 96, False),
    ],
    ids=["longest name", "longer", "longer folder", "longest path", "longer path"],
)
def test_names_and_paths_that_no_disk_takes_are_refused(path: bytes, taken: bool) -> None:
    if taken:
        assert _listing(answer({path: 1})).files == {path: 1}
        return
    with pytest.raises(HostFailure) as refused:
        _listing(answer({b"ok": 1, path: 1}))
    assert refused.value.reason == "protocol"
    assert "name that is too long" in refused.value.detail
    assert len(refused.value.detail) < 120


def test_a_size_that_no_disk_has_is_refused() -> None:
    assert _listing(answer({b"a": 10**17})).files == {b"a": 10**17}
    for size in (10**18, 10**400):
        with pytest.raises(HostFailure):
            _listing(answer({b"a": size}))


def test_a_list_without_sizes_is_refused() -> None:
    with pytest.raises(HostFailure):
        _listing({**answer({}), "files": base64.b64encode(zlib.compress(b"name\0")).decode()})


@pytest.mark.parametrize(
    ("seen", "shared"),
    [
        ([(), (), ()], {}),
        ([(), (0,), (0, 1)], {1: 0, 2: 0}),
        ([(1, 2), (), (1,)], {1: 0, 2: 0}),
        ([(), (), (1,), (0,)], {2: 1, 3: 0}),
        ([(9,), (-1,), ()], {}),
    ],
    ids=["apart", "in order", "out of order", "two disks", "nonsense"],
)
def test_hosts_on_one_disk_are_found(seen: list[tuple[int, ...]], shared: dict[int, int]) -> None:
    listings = [
        Outcome(parse_host(f"h{index}"), "ok", value=_Listing("/w", {}, marks, (), 0))
        for index, marks in enumerate(seen)
    ]
    assert _shared(Outcomes(listings)) == shared


def test_each_host_has_a_folder_of_its_own(tmp_path: Path) -> None:
    hosts = [parse_host("a@h:22"), parse_host("h"), parse_host("tasks")]
    assert [path.name for path in _folders(hosts, tmp_path).values()] == ["a_h_22", "h", "host-tasks"]
    with pytest.raises(InputError, match="would share"):
        _folders([parse_host("a@h:22"), parse_host("a_h_22")], tmp_path)


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    found = Workdir(tmp_path)
    found.deploy({"run.py": "code", "data/in": "input", "data/link": Path("in")})
    return found


def listed(workdir: Workdir, *patterns: str, index: int = 0) -> dict[str, Any]:
    request = {
        "workdir": str(workdir.path),
        "patterns": list(patterns),
        "run": "r",
        "index": index,
        "declared": None,
        "settled": False,
    }
    reply = list_outputs(request)
    return {**reply, "files": sorted(os.fsdecode(path) for path in _listing(reply).files)}


def test_outputs_are_what_was_not_deployed(workdir: Workdir) -> None:
    (workdir.path / "out").mkdir()
    (workdir.path / "out" / ".hidden").write_text("x")
    (workdir.path / "data" / "made").write_text("by a task, in a deployed folder")
    (workdir.path / "empty").mkdir()
    assert listed(workdir)["files"] == ["data/made", "out/.hidden"]
    (workdir.path / "run.py").write_text("changed by a task")
    assert listed(workdir)["files"] == ["data/made", "out/.hidden", "run.py"]


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        (["out"], ["out/a.json", "out/b.txt", "out/d/c.json"]),
        (["out/*.json"], ["out/a.json"]),
        (["out/**/*.json"], ["out/a.json", "out/d/c.json"]),
        (["*/?.txt", "out/d"], ["out/b.txt", "out/d/c.json"]),
        (["nothing*"], []),
        (["run.py", "data"], []),
        (["[x]y", "[[]x]y"], ["[x]y"]),
    ],
    ids=str,
)
def test_patterns_choose(workdir: Workdir, patterns: list[str], files: list[str]) -> None:
    for name in ("out/a.json", "out/b.txt", "out/d/c.json", "[x]y"):
        (workdir.path / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir.path / name).write_text("x")
    assert listed(workdir, *patterns)["files"] == files


def test_links_are_followed_to_files_in_the_workdir_only(workdir: Workdir, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    (workdir.path / "out").mkdir()
    (workdir.path / "out" / "r").write_text("x")
    links = {
        "latest": "out/r",
        "loop": "loop",
        "dead": "nowhere",
        "folder": "out",
        "up": "..",
        "away": "../outside",
        "file": "../outside/secret",
        "own": ".roomful/deploy",
        "old": f".roomful/deploy/top/releases/{workdir.releases()[0]}/run.py",
    }
    for name, target in links.items():
        (workdir.path / name).symlink_to(target)
    reply = listed(workdir)
    assert reply["files"] == ["latest", "out/r"]
    assert sorted(reply["skipped"]) == ["away", "dead", "file", "folder", "loop", "own", "up"]
    # Who names a link means what is behind it.
    assert listed(workdir, "away")["files"] == ["away/secret"]
    assert listed(workdir, "away/*")["files"] == ["away/secret"]


def test_only_the_first_host_on_a_disk_lists_it(workdir: Workdir) -> None:
    (workdir.path / "out").write_text("x")
    assert listed(workdir, index=3)["files"] == ["out"]
    later = listed(workdir, index=5)
    assert (later["files"], later["seen"]) == ([], [3])
    first = listed(workdir, index=1)
    assert (first["files"], sorted(first["seen"])) == (["out"], [3, 5])


def test_a_host_without_a_workdir_has_nothing(tmp_path: Path) -> None:
    assert listed(Workdir(tmp_path / "nowhere"))["files"] == []
    assert Collected().files == 0
    assert Outputs(os.fsencode(tmp_path)).files == {}
