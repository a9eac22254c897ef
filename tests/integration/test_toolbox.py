"""inv push-toolbox: the copy, what it leaves alone, and a real bootstrap on the other side."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from roomful.errors import InputError, RoomfulError
from roomful.hosts import resolve
from roomful.lab import Lab
from roomful.settings import Settings
from roomful.toolbox import MANIFEST, files_to_push, next_line, pack, push
from tests.integration.test_bootstrap import INV, make_wheel
from tests.support.inv import project_for
from tests.support.lab import lab, rootless_lab, settings_for

__all__ = ["lab", "rootless_lab"]

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    (tmp_path / "project").mkdir()
    return settings_for(rootless_lab, tmp_path / "project")


@pytest.fixture
def home(rootless_lab: Lab) -> Path:
    return rootless_lab.host_directory("lab01") / "home"


@pytest.fixture
def toolbox(tmp_path: Path, checkout: Path, home: Path) -> Path:
    """A small checkout with the real bootstrap; its one package comes from a folder that pip is told of there."""
    root = tmp_path / "box with space"
    (root / "sub").mkdir(parents=True)
    shutil.copy(checkout / "bootstrap", root)
    (root / "requirements.txt").write_text("alpha_one==1.0\n")
    (root / "sub" / "it's.py").write_text("x")
    for left_out in (".venv", "__pycache__", ".mypy_cache", "results"):
        (root / left_out).mkdir()
        (root / left_out / "junk").write_text("x")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "alpha_one", "1.0", {"inv": INV})
    pip = home / ".config" / "pip"
    pip.mkdir(parents=True, exist_ok=True)
    (pip / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {wheels.as_uri()}\n")
    return root


def test_it_is_copied_set_up_and_goes_on_there(toolbox: Path, settings: Settings, home: Path, tmp_path: Path) -> None:
    (host, *_) = resolve("lab01", settings)
    tasks = tmp_path / "my tasks.txt"
    tasks.write_text("echo 1\n")
    said: list[str] = []
    done = push(host, settings, "~/box here", tasks, said.append, toolbox)
    there = home / "box here"
    assert done.directory == str(there)
    names = {
        str(path.relative_to(there)) for path in there.rglob("*") if path.is_file() and ".venv" not in path.parts
    }
    wanted = {"bootstrap", "requirements.txt", "sub/it's.py", "host_lists/lab.txt", "my tasks.txt"}
    assert names == {*wanted, MANIFEST, ".venv.lock"}
    assert done.files == len(wanted)
    # Two programs write there at the same time: a line may have two beginnings.
    assert any("bootstrap: ready" in line for line in said)
    assert (there / ".venv" / "bin" / "inv").exists()
    assert done.line.startswith("inv shell lab01 -- 'cd ")
    # What that line runs there.
    inner = subprocess.check_output(["sh", "-c", shlex.split(done.line)[-1]], cwd=tmp_path, text=True)
    assert inner.split("|")[2:4] == ["start-server", "--tasks=my tasks.txt"]


def test_a_second_push_removes_what_is_no_longer_there_and_nothing_else(
    toolbox: Path, settings: Settings, home: Path
) -> None:
    (host, *_) = resolve("lab01", settings)
    push(host, settings, "again", checkout=toolbox)
    (home / "again" / "results").mkdir()
    (home / "again" / "results" / "mine").write_text("precious")
    (toolbox / "sub" / "it's.py").unlink()
    (toolbox / "new.py").write_text("y")
    push(host, settings, "again", checkout=toolbox)
    assert not (home / "again" / "sub" / "it's.py").exists()
    assert (home / "again" / "new.py").read_text() == "y"
    assert (home / "again" / "results" / "mine").read_text() == "precious"
    assert {path.name for path in (home / "again").glob(f"{MANIFEST}*")} == {MANIFEST}


def test_a_push_that_was_cut_is_mended_by_the_next(toolbox: Path, settings: Settings, home: Path) -> None:
    (host, *_) = resolve("lab01", settings)
    push(host, settings, "cut", checkout=toolbox)
    (home / "cut" / MANIFEST).rename(home / "cut" / f"{MANIFEST}.old")
    (home / "cut" / "requirements.txt").write_text("half")
    push(host, settings, "cut", checkout=toolbox)
    assert (home / "cut" / "requirements.txt").read_text() == "alpha_one==1.0\n"


def test_a_folder_that_holds_something_else_is_left_alone(toolbox: Path, settings: Settings, home: Path) -> None:
    (home / "work").mkdir()
    (home / "work" / "thesis").write_text("precious")
    (host, *_) = resolve("lab01", settings)
    with pytest.raises(RoomfulError, match="holds something else"):
        push(host, settings, "~/work", checkout=toolbox)
    assert [path.name for path in (home / "work").iterdir()] == ["thesis"]


def test_a_bootstrap_that_fails_says_why(toolbox: Path, settings: Settings) -> None:
    (toolbox / "requirements.txt").write_text("beta==9.9\n")
    (host, *_) = resolve("lab01", settings)
    with pytest.raises(RoomfulError, match=r"bootstrap failed there: .*pip could not install"):
        push(host, settings, "broken", on_line=lambda line: None, checkout=toolbox)


def test_task_files_that_cannot_be_brought_are_refused(toolbox: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        files_to_push(toolbox, settings, tmp_path / "none")
    (tmp_path / "bootstrap").write_text("echo\n")
    with pytest.raises(InputError, match="file of this name"):
        files_to_push(toolbox, settings, tmp_path / "bootstrap")


def test_a_checkout_with_git_brings_what_git_would_keep(toolbox: Path, settings: Settings) -> None:
    subprocess.run(["git", "init", "-q", str(toolbox)], check=True)
    (toolbox / ".gitignore").write_text("junk\n/secret\n")
    (toolbox / "secret").write_text("x")
    names = set(files_to_push(toolbox, settings))
    assert names == {"bootstrap", "requirements.txt", "sub/it's.py", ".gitignore", "host_lists/lab.txt"}
    assert pack(files_to_push(toolbox, settings))[:2] == b"\x1f\x8b"


def test_the_line_to_go_on_with_knows_the_gateway(settings: Settings) -> None:
    (host, *_) = resolve("lab01", settings)
    line = next_line(host, settings.replace(gateway="front"), "/home/ada/box", "")
    assert line == "inv shell lab01 --gateway=front -- 'cd /home/ada/box && ./bootstrap inv start-server'"


def test_the_task_brings_this_very_checkout(rootless_lab: Lab, tmp_path: Path, home: Path) -> None:
    project = project_for(rootless_lab, tmp_path, tmp_path)
    (tmp_path / "tasks.txt").write_text("true\n")
    done = project.inv("push-toolbox", "--on", "lab01", "--tasks", "tasks.txt", "--copy-only", "--into", "whole")
    assert done.returncode == 0, done.stderr
    folder = home / "whole"
    assert done.stdout == f"inv shell lab01 -- 'cd {folder} && ./bootstrap inv start-server --tasks=tasks.txt'\n"
    assert (folder / "host_lists" / "lab.txt").read_text() == (tmp_path / "host_lists" / "lab.txt").read_text()
    look = "import roomful, fabfile; print(roomful.__file__)"
    seen = subprocess.check_output(
        [*project.argv([])[:1], "-c", look], cwd=folder, text=True, env={"PATH": "/usr/bin"}
    )
    assert seen.strip() == str(folder / "roomful" / "__init__.py")
    assert project.inv("push-toolbox").returncode == 2
