"""The server's side on every Python that a host may have."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from roomful.bundle import build_bundle
from roomful.settings import Settings
from roomful.shipping import _GATE, bundled_valkey
from tests.support.server import folder
from tests.support.waiting import wait_until

PYENV = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pyenv" / "versions"
ALL_PYTHONS = sorted(path for path in PYENV.glob("3.*/bin/python3"))
OLD_PYTHONS = [path for path in ALL_PYTHONS if int(path.parents[1].name.split(".")[1]) < 8]
PYTHONS = [path for path in ALL_PYTHONS if path not in OLD_PYTHONS]


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parents[1].name)
def test_it_is_served_by_every_python(project: Settings, python: Path) -> None:
    """As on a host: the file alone, and a request on its standard input."""
    zipapp = build_bundle(project.root).path
    valkey = bundled_valkey()
    request = {"cluster": "c", "directory": project.server_directory, "candidates": [str(valkey)]}

    def ask(verb: str, **more: object) -> dict[str, object]:
        argv = [python, "-I", "-S", zipapp, "server"]
        text = json.dumps({"verb": verb, **request, **more})
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, timeout=60)
        reply: dict[str, object] = json.loads(done.stdout)["ok"]
        return reply

    assert ask("start")["state"] == "ready"
    assert ask("start")["already"] is True
    keeper = ask("status")["keeper"]
    assert isinstance(keeper, int)
    # It does its work, and does not just come back again and again.
    wait_until(lambda: "keeper started" in (folder(project) / "keeper.log").read_text(), 15)
    assert ask("status")["keeper"] == keeper
    assert ask("stop", forget=True)["stopped"] is True


@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parents[1].name)
def test_a_python_that_is_too_old_says_so(python: Path) -> None:
    source = "from __future__ import annotations\nraise SystemExit('ran')\n"
    gate = _GATE.format(size=len(source))
    loader = f"import sys;exec(compile(sys.stdin.buffer.read({len(gate)}),'roomful','exec'))"
    argv = [python, "-I", "-S", "-c", loader]
    done = subprocess.run(argv, input=(gate + source).encode(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 86
    assert b"3.8 or newer is needed" in done.stderr
