"""The lab on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.errors import InputError
from roomful.hosts import read_host_list
from roomful.lab import LabOptions
from tests.support.lab import CHECKOUT, traces

INV = str(Path(sys.executable).with_name("inv"))


@pytest.mark.parametrize("kind", ["rootless", pytest.param("namespaces", marks=pytest.mark.root)])
def test_the_tasks(kind: str, tmp_path: Path) -> None:
    name = f"c{os.getpid()}"
    (tmp_path / "tasks.py").write_text("from fabfile import ns\n")

    def inv(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        return subprocess.run(
            [INV, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    flag = ["--rootless"] if kind == "rootless" else []
    try:
        up = inv("lab.up", "--count", "2", "--name", name, "--off", "lab02", *flag)
        assert up.returncode == 0, up.stderr
        assert f"lab '{name}' is up" in up.stdout
        assert "already" in inv("lab.up", "--count", "2", "--name", name, "--off", "lab02", *flag).stdout
        other = inv("lab.up", "--count", "3", "--name", name, *flag)
        assert (other.returncode, "give --force" in other.stderr) == (2, True)
        hosts = read_host_list(tmp_path / "host_lists" / f"{name}.txt").hosts
        assert [host.name for host in hosts] == ["lab01", "lab02"]
        assert hosts[0].netns == (None if kind == "rootless" else f"rf-{name}")
        (listed,) = [item for item in json.loads(inv("lab.list", "--json").stdout)["labs"] if item["name"] == name]
        assert [host["faults"] for host in listed["hosts"]] == [[], ["poweroff"]]
        assert inv("lab.heal", "lab02", "--name", name).returncode == 0
        assert inv("lab.fail", "lab01", "lab02", "--how", "hang", "--name", name).returncode == 0
        assert "lab01: hang; lab02: hang" in inv("lab.list").stdout
        for words in (["lab.fail", "lab07"], ["lab.fail", "lab01", "--how", "explode"], ["lab.heal"]):
            refused = inv(*words, "--name", name)
            assert refused.returncode == 2, words
            assert len(refused.stderr.splitlines()) == 1, refused.stderr
        forced = inv("lab.up", "--count", "1", "--name", name, "--force", "--json", *flag)
        assert [host["name"] for host in json.loads(forced.stdout)["hosts"]] == ["lab01"]
        assert inv("lab.down", "--name", name).returncode == 0
        assert list((tmp_path / "host_lists").iterdir()) == []
        again = inv("lab.down", "--name", name)
        assert (again.returncode, "nothing to do" in again.stderr) == (0, True)
    finally:
        labs.down(name)
    assert traces(name) == []


def test_a_list_that_somebody_wrote_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("node01\n")
    name = f"o{os.getpid()}"
    with pytest.raises(InputError, match="not the lab's"):
        labs.up(LabOptions(name=name, count=1, rootless=True, host_list=str(path)))
    assert path.read_text() == "node01\n"
    assert traces(name) == []
