"""Private folders and files: ours alone, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from roomful.agent.private import (
    NETWORK_FILE_SYSTEMS,
    Refusal,
    daemon_environment,
    file_system,
    private_directory,
    read_json,
    write_atomically,
    write_json,
)

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /tmp rw,nosuid - tmpfs tmpfs rw
40 22 0:50 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
41 40 0:51 / /home/me/local\\040disk rw - xfs /dev/sdb rw
42 22 0:52 / /data rw - ext4 /dev/sdc rw
43 42 0:53 / /data rw - lustre mgs:/scratch rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/tmp/x", "ext4"),
        ("/tmp/x/y", "tmpfs"),
        ("/home/me", "nfs4"),
        ("/home/me/local disk/q", "xfs"),
        ("/homes/me", "ext4"),
        ("/data/q", "lustre"),
    ],
)
def test_the_file_system_that_holds_a_folder(tmp_path: Path, path: str, kind: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert file_system(Path(path), str(table)) == kind
    assert (kind in NETWORK_FILE_SYSTEMS) == (kind in ("nfs4", "lustre"))


def test_without_a_table_nothing_is_told(tmp_path: Path) -> None:
    assert file_system(tmp_path, str(tmp_path / "none")) == ""


def test_every_folder_of_ours_is_closed_to_others(tmp_path: Path) -> None:
    ours = tmp_path / f"roomful-{os.getuid()}"
    made = private_directory(ours / "cluster" / "host")
    for path in (ours, ours / "cluster", made):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert stat.S_IMODE(private_directory(made).stat().st_mode) == 0o700


@pytest.mark.parametrize("level", ["", "cluster", "cluster/host"])
def test_a_link_anywhere_in_our_part_is_refused(tmp_path: Path, level: str) -> None:
    ours = tmp_path / f"roomful-{os.getuid()}"
    trap = ours / level
    trap.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    trap.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="not a folder of ours"):
        private_directory(ours / "cluster" / "host")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(Refusal):
        private_directory(tmp_path / "x")


def test_files_are_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_json(path) == {"a": 1}
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0"])
def test_what_is_no_document_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    assert read_json(tmp_path / "x") is None
    assert read_json(tmp_path / "none") is None


def test_a_daemon_keeps_only_a_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "x")
    monkeypatch.setenv("PATH", "/mine")
    kept = daemon_environment()
    assert "MY_TOKEN" not in kept
    assert kept["PATH"].startswith("/mine:")
    assert "/usr/sbin" in kept["PATH"].split(":")
