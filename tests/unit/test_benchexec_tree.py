"""Which files a definition needs on a worker, and which definitions cannot be brought there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roomful.benchexec.stage import Load, check_file, make_stage
from roomful.benchexec.tree import read_tree
from roomful.errors import InputError

DEFINITION = """<?xml version="1.0"?>
<benchmark tool="dummy">
  <rundefinition name="r"><requiredfiles>../inc/${rundefinition_name}.h</requiredfiles></rundefinition>
  <propertyfile>../props/all.prp</propertyfile>
  <tasks name="a"><include>../c/*.c</include><exclude>../c/not.c</exclude>
    <append>${inputfile_name}.more</append></tasks>
  <tasks name="b"><includesfile>sets/b.set</includesfile><requiredfiles>${taskdef_path}/data</requiredfiles></tasks>
</benchmark>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "bench/def.xml": DEFINITION,
        "bench/sets/b.set": "../../y/*.yml\n",
        "c/1.c": "1",
        "c/1.c.more": "m",
        "c/not.c": "n",
        "inc/r.h": "h",
        "inc/other.h": "o",
        "props/all.prp": "p",
        "props/one.prp": "p",
        "y/t.yml": "input_files: [t.c, dir/]\nrequired_files: t.h\nproperties:\n- property_file: ../props/one.prp\n",
        "y/t.c": "t",
        "y/t.h": "t",
        "y/dir/in/x.c": "x",
        "y/data/d": "d",
        "unrelated": "u",
    }
    for name, text in files.items():
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "top"


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_everything_that_is_named_is_shipped_at_its_place_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    tree = read_tree(folder / "bench" / "def.xml")
    assert (tree.root, tree.definition_path) == (folder, "bench/def.xml")
    make_stage(Load(tree), tmp_path / "stage")
    assert names(tmp_path / "stage" / "files") == names(folder) - {"c/not.c", "inc/other.h", "unrelated"}


def test_a_stage_has_benchexec_in_pure_python_and_our_programs(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "start script.sh"
    script.write_text("#!/bin/sh\n")
    load = Load(read_tree(folder / "bench" / "def.xml"), folder / "unrelated", script)
    make_stage(load, tmp_path / "stage")
    found = names(tmp_path / "stage")
    assert {"lib/benchexec/runexecutor.py", "lib/yaml/loader.py", "lib/roomful/remote/bench_job.py"} <= found
    assert "lib/roomful/agent/host_lock.py" in found
    assert not [name for name in found if name.endswith((".so", ".pyc")) or "tablegenerator" in name]
    assert (load.archive_path, load.script_path) == ("tool.d/unrelated", "script.d/start script.sh")
    for name in ("bin/benchexec", "bin/runexec", load.script_path):
        assert (tmp_path / "stage" / name).stat().st_mode & 0o111, name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("bench/def.xml", "definition's content"),
        ("c/1.c", "task files"),
        ("c/1.c.more", "task files"),
        ("bench/sets/b.set", "task files"),
        ("inc/r.h", "task files"),
        ("props/one.prp", "task files"),
        ("y/t.yml", "task files"),
        ("y/dir/in/x.c", "task files"),
        ("y/data/d", "task files"),
        ("y/data/new", "task files"),
        ("tool.zip", "tool"),
        ("start.sh", "start script"),
        ("unrelated", None),
        ("inc/other.h", None),
    ],
)
def test_a_run_is_another_one_when_anything_that_is_shipped_changes(
    folder: Path, name: str, what: str | None
) -> None:
    tool, script = folder / "tool.zip", folder / "start.sh"
    for path in (tool, script):
        path.write_text("1")
    before = Load(read_tree(folder / "bench" / "def.xml"), tool, script).digests()
    with (folder / name).open("a") as file:
        file.write("\n")
    after = Load(read_tree(folder / "bench" / "def.xml"), tool, script).digests()
    assert [key for key in before if before[key] != after[key]] == ([what] if what else [])


def test_files_that_change_places_are_others(folder: Path) -> None:
    before = Load(read_tree(folder / "bench" / "def.xml")).digests()
    (folder / "y" / "dir" / "in" / "x.c").rename(folder / "y" / "dir" / "in" / "z.c")
    assert Load(read_tree(folder / "bench" / "def.xml")).digests()["task files"] != before["task files"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("../c/*.c", "/usr/include/*.h", "'/usr/include/*.h' is an absolute path: a worker has its own folders"),
        ("../c/not.c", "~/c/not.c", "'~/c/not.c' is an absolute path"),
        ("../props/all.prp", "$HOME/all.prp", "'$HOME/all.prp' is an absolute path"),
    ],
)
def test_absolute_paths_are_refused(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "bench" / "def.xml"
    path.write_text(DEFINITION.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_tree(path)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; write it relative to this file")


def test_names_that_are_not_unicode_are_refused(folder: Path) -> None:
    (folder / "c" / os.fsdecode(b"x\xff.c")).touch()
    with pytest.raises(InputError, match=r"c/x\\udcff\.c.: cannot be measured: its name is not UTF-8.*; rename it"):
        read_tree(folder / "bench" / "def.xml")


def test_the_definitions_own_folder_may_be_named_as_a_whole(folder: Path) -> None:
    path = folder / "bench" / "def.xml"
    path.write_text(DEFINITION.replace("../c/*.c", "${benchmark_path_abs}/../c/*.c"))
    assert folder / "c" / "1.c" in read_tree(path).files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input_files: [no.c]\n", "y/t.yml: input_files: no file matches 'no.c'"),
        ("input_files: /etc/passwd\n", "'/etc/passwd' is an absolute path"),
        ("a: [\n", "y/t.yml: is no YAML"),
        ("just text\n", "y/t.yml: is no task definition"),
        ("!!python/object/apply:os.system ['false']\n", "y/t.yml: is no YAML"),
    ],
)
def test_bad_task_definitions_are_refused_with_their_place(folder: Path, text: str, message: str) -> None:
    (folder / "y" / "t.yml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_tree(folder / "bench" / "def.xml")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--tool .*/no\.zip: no such file"):
        check_file(str(tmp_path / "no.zip"), "--tool")
    assert check_file("", "--tool") is None
