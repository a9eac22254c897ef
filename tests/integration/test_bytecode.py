"""Our code is compiled once and not at every call, although Invoke turns bytecode off for what it loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path, checkout: Path) -> Path:
    """A checkout as after a clone."""
    for name in ("roomful", "fabfile"):
        shutil.copytree(checkout / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "tasks.py", tmp_path)
    return tmp_path


def call(project: Path, **changes: str) -> set[str]:
    """Run ``inv hosts`` and return the names of the modules that have bytecode."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    argv = [sys.executable, "-m", "invoke", "hosts", "a"]
    done = subprocess.run(
        argv, cwd=project, env={**environment, **changes}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "never examined" in done.stdout, done.stderr
    found = project.rglob("*.pyc")
    return {f"{path.parents[1].relative_to(project)}/{path.name.partition('.')[0]}" for path in found}


def test_the_first_call_leaves_bytecode_for_the_next(project: Path) -> None:
    # Those that are loaded first and last.
    expected = {"fabfile/_step", "fabfile/running", "roomful/settings", "roomful/inventory"}
    assert expected <= call(project)


def test_who_wants_no_bytecode_gets_none(project: Path) -> None:
    assert call(project, PYTHONDONTWRITEBYTECODE="1") == set()
