"""Files to and from hosts that are machines of their own: full disks, one home on all, an ordinary account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.deploy import controller_name
from roomful.lab import Lab
from roomful.state import ProjectState
from tests.support.lab import LabFactory, as_root, lab, settings_for, ssh
from tests.support.workdirs import make_tree, read_tree

__all__ = ["lab"]

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
Inv = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def inv(tmp_path: Path, program: Callable[[str], str]) -> Inv:
    """Call inv in a project of its own: it enters the lab's network, which this process must not."""
    program("rsync")
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")

    def call(room: Lab, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        settings_for(room, tmp_path)
        changes = {f"INVOKE_ROOMFUL_{name.upper()}": value for name, value in settings.items()}
        argv = [sys.executable, "-m", "invoke", *words, "--hosts", "lab"]
        return subprocess.run(
            argv, cwd=tmp_path, env=os.environ | changes, capture_output=True, text=True, timeout=90, check=False
        )

    return call


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    document = json.loads(done.stdout or "{}")
    assert document, done.stderr
    hosts: list[dict[str, Any]] = document["hosts"]
    return hosts


def test_a_full_disk_is_named_and_the_old_version_stays(lab: LabFactory, inv: Inv, tmp_path: Path) -> None:
    room = lab(count=1, rootless=False, disk=24 * 2**20)
    # A filesystem of which nothing is known: what fits there is only found out by writing.
    layers = "/home/student/.layers"
    options = f"lowerdir={layers}/low,upperdir={layers}/up,workdir={layers}/work"
    make = f"mkdir -p {layers}/low {layers}/up {layers}/work full; chown -R student: {layers} full"
    as_root(room, "lab01", f"cd /home/student; {make}; mount -t overlay overlay -o {options} full")
    make_tree(tmp_path / "resources", {"run.py": "one"})
    assert inv(room, "deploy", workdir="~/full").returncode == 0
    (tmp_path / "resources" / "run.py").write_text("two")
    for number in range(4):
        (tmp_path / "resources" / f"big{number}").write_bytes(os.urandom(9_000_000))
    (row,) = rows(inv(room, "deploy", "--json", workdir="~/full"))
    assert (row["status"], row["reason"]) == ("failed", "disk-full")
    assert "No space left on device" in row["detail"]  # rsync's words, or those of our own look
    assert ssh(room, "lab01", "cat full/run.py; ls full").stdout == "onerun.py\n"
    for number in range(4):
        (tmp_path / "resources" / f"big{number}").unlink()
    # What a push had brought when the disk was full is gone, and what a cut one had brought makes room.
    staging = "full/.roomful/deploy/top/staging"
    assert ssh(room, "lab01", f"ls {staging}").stdout == ""
    cut = f"lab01-0@{controller_name(settings_for(room, tmp_path))}.0123456789abcdef"
    fill = f"mkdir {staging}/{cut}; head -c 20000000 /dev/urandom > {staging}/{cut}/half"
    assert ssh(room, "lab01", fill).returncode == 0
    (tmp_path / "resources" / "medium").write_bytes(os.urandom(6_000_000))
    (row,) = rows(inv(room, "deploy", "--json", workdir="~/full"))
    assert (row["status"], row["reason"]) == ("ok", None), row
    assert ssh(room, "lab01", f"cat full/run.py; ls full {staging}").stdout == (
        f"twofull:\nmedium\nrun.py\n\n{staging}:\n"
    )


@pytest.mark.parametrize("relay", ["off", "direct"])
def test_a_disk_that_is_too_small_is_named_before_anything_is_sent(
    lab: LabFactory, inv: Inv, tmp_path: Path, relay: str
) -> None:
    room = lab(count=3, rootless=False, disk=32 * 2**20)
    workdir = f"~/small-{relay}"
    make_tree(tmp_path / "resources", {"run.py": "one"})
    (tmp_path / "resources" / "kept").write_bytes(os.urandom(8_000_000))
    assert inv(room, "deploy", workdir=workdir).returncode == 0
    assert ssh(room, "lab02", "head -c 18000000 /dev/zero > filler").returncode == 0
    (tmp_path / "resources" / "big").write_bytes(os.urandom(9_000_000))
    done = inv(room, "deploy", "--relay", relay, "--json", workdir=workdir)
    assert done.returncode == 1
    first, second, third = rows(done)
    assert (first["status"], third["status"]) == ("ok", "ok")
    assert (second["status"], second["reason"]) == ("failed", "disk-full")
    # No relay was led there either: it passed over nobody else.
    if relay == "direct":
        assert "passed on unencrypted over TCP to 1 of 1\n" in done.stderr
    # What is there already is not counted.
    assert f"/home/student/{workdir[2:]} needs 8.6 MiB more, and " in second["detail"]
    assert ssh(room, "lab02", f"ls {workdir}").stdout.split() == ["kept", "run.py"]
    assert ssh(room, "lab02", f"ls {workdir}/.roomful/deploy/top/staging").stdout == ""
    assert ssh(room, "lab02", "rm filler").returncode == 0
    assert inv(room, "deploy", "--relay", relay, workdir=workdir).returncode == 0
    for host in room.hosts:
        ssh(room, host.name, f"rm -rf {workdir}")


def test_one_home_on_all_hosts(lab: LabFactory, inv: Inv, tmp_path: Path) -> None:
    room = lab(count=4, rootless=False, shared_home=True)
    make_tree(tmp_path / "resources", {"run.py": "one", "data/x": "x"})
    (tmp_path / "resources" / "big").write_bytes(os.urandom(500_000))
    found = rows(inv(room, "deploy", "--json"))
    assert [row["result"] for row in found] == ["deployed"] * 4
    assert len([row for row in found if row["bytes_sent"]]) == 1
    made = rows(inv(room, "create-folders", "out/deep", "--json"))
    assert all(row["created"] == ["out/deep"] or row["existed"] == ["out/deep"] for row in made)
    assert any(row["created"] for row in made)
    for host in room.hosts:
        assert (
            ssh(room, host.name, f"cat roomful/run.py; echo {host.name} > roomful/out/deep/{host.name}").stdout
            == "one"
        )
    collected = rows(inv(room, "collect", "--json"))
    assert [row["shared_with"] for row in collected] == ["", "lab01", "lab01", "lab01"]
    assert read_tree(tmp_path / "results") == {f"lab01/out/deep/{host.name}": f"{host.name}\n" for host in room.hosts}
    assert [row["result"] for row in rows(inv(room, "deploy", "--json"))] == ["current"] * 4


def test_a_file_that_cannot_be_read_fails_its_host_and_the_rest_comes(
    lab: LabFactory, inv: Inv, tmp_path: Path
) -> None:
    room = lab(count=2, rootless=False)
    for host in room.hosts:
        ssh(room, host.name, f"mkdir -p perm/out/closed; echo {host.name} > perm/out/r")
    ssh(room, "lab02", "touch perm/out/secret perm/out/closed/x; chmod 0 perm/out/secret perm/out/closed")
    done = inv(room, "collect", "--json", workdir="~/perm")
    assert done.returncode == 1
    first, second = rows(done)
    assert (first["status"], first["files"]) == ("ok", 1)
    assert (second["status"], second["reason"]) == ("failed", "exit 23")
    assert "secret" in second["detail"]
    assert read_tree(tmp_path / "results") == {"lab01/out/r": "lab01\n", "lab02/out/r": "lab02\n"}


def test_a_folder_that_tells_names_only_hinders_neither_collect_nor_clean(
    lab: LabFactory, inv: Inv, tmp_path: Path
) -> None:
    room = lab(count=2, rootless=False)
    make = "mkdir -p listed/out/names listed/out/none; echo r > listed/out/r; echo x > listed/out/names/x"
    for host in room.hosts:
        assert ssh(room, host.name, f"{make}; chmod 444 listed/out/names; chmod 0 listed/out/none").returncode == 0
    done = inv(room, "collect", "--json", workdir="~/listed")
    for row in rows(done):
        assert (row["status"], row["files"]) == ("ok", 1)
        assert sorted(row["skipped"]) == ["out/names/x", "out/none"]
    done = inv(room, "clean", "--workdir", "--yes", "--json", workdir="~/listed")
    # Ours are the marks of the collection.
    assert [(row["status"], row["files"] >= 2) for row in rows(done)] == [("ok", True)] * 2
    assert ssh(room, "lab01", "ls -d listed").returncode != 0


def test_a_shared_home_is_cleaned_once_and_not_under_someone_who_works(
    lab: LabFactory, inv: Inv, tmp_path: Path
) -> None:
    room = lab(count=2, rootless=False, shared_home=True)
    make_tree(tmp_path / "resources", {"run.py": "one", "data/a": "a"})
    assert inv(room, "deploy", workdir="~/cleaned").returncode == 0
    # A client's folder whose lock is held, as an agent does.
    folder = f"/tmp/roomful-$(id -u)/{ProjectState(settings_for(room, tmp_path)).cluster_name}/lab02"
    hold = f"umask 077; mkdir -p {folder}; flock -o {folder}/lock sleep 60 </dev/null >/dev/null 2>&1 & echo $!"
    held = ssh(room, "lab02", hold).stdout.strip()
    try:
        done = inv(room, "clean", "--json", workdir="~/cleaned")
        assert [row["reason"] for row in rows(done)] == ["in-use", "agent-runs"]
        assert ssh(room, "lab01", "cat cleaned/run.py").stdout == "one"
    finally:
        ssh(room, "lab02", f"kill {held}")
    done = inv(room, "clean", "--json", workdir="~/cleaned")
    assert [(row["shared_with"], row["files"]) for row in rows(done)] == [("", 2), ("lab01", 0)]
    assert [row["folder"] for row in rows(done)] == ["absent", "removed"]
    assert ssh(room, "lab01", "ls -A cleaned").returncode != 0
    refused = inv(room, "clean", "--workdir", workdir="~/cleaned")
    assert refused.returncode == 2
    assert "add --yes" in refused.stderr
