"""Which jobs a benchmark definition is split into, what selects them, and which definitions are refused."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.benchexec import make_plan, read_definition
from roomful.benchexec.plan import Job, task_line
from roomful.errors import InputError

TWO_BY_THREE = """<?xml version="1.0"?>
<benchmark tool="dummy">
  <rundefinition name="fast"/>
  <rundefinition name="slow">
    <tasks name="own"><include>c/*.c</include><withoutfile>x</withoutfile></tasks>
  </rundefinition>
  <tasks name="a"><include>c/*.c</include><exclude>c/2.c</exclude></tasks>
  <tasks name="b"><includesfile>sets/*.set</includesfile></tasks>
</benchmark>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three C files and a list that names two of them."""
    (tmp_path / "c").mkdir()
    (tmp_path / "sets").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "c" / f"{number}.c").touch()
    (tmp_path / "sets" / "b.set").write_text("# some\n// more\n\n../c/[12].c\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "def.xml"
    path.write_text(text)
    return path


def wrapped(*inside: str) -> str:
    return f'<benchmark tool="dummy">{"".join(inside)}</benchmark>'


A_B = '<tasks name="a.b"><withoutfile>x</withoutfile></tasks>'
B = '<tasks name="b"><withoutfile>x</withoutfile></tasks>'
SET = '<tasks name="a"><withoutfile>x</withoutfile></tasks>'


@pytest.mark.parametrize(
    ("split", "jobs"),
    [
        (
            "taskset",
            {"a": (4, "fast.a slow.a"), "b": (4, "fast.b slow.b"), "own": (4, "slow.own")},
        ),
        (
            "rundefinition",
            {"fast": (4, "fast.a fast.b"), "slow": (8, "slow.a slow.b slow.own")},
        ),
        (
            "both",
            {
                "fast.a": (2, "fast.a"),
                "fast.b": (2, "fast.b"),
                "slow.a": (2, "slow.a"),
                "slow.b": (2, "slow.b"),
                "slow.own": (4, "slow.own"),
            },
        ),
    ],
)
def test_splits(folder: Path, split: str, jobs: dict[str, tuple[int, str]]) -> None:
    plan = make_plan(read_definition(write(folder, TWO_BY_THREE)), split)
    assert {job.id: (job.runs, " ".join(job.results)) for job in plan.jobs} == jobs
    assert plan.runs == 12


def test_a_set_of_one_run_definition_is_asked_of_that_one_only(folder: Path) -> None:
    plan = make_plan(read_definition(write(folder, TWO_BY_THREE)))
    assert plan.jobs[2].arguments("d/def.xml", ["--no-container"]) == [
        "benchexec",
        "--no-container",
        "--results-per-taskset",
        "--rundefinition=slow",
        "--tasks=own",
        "--",
        "d/def.xml",
    ]


def test_a_run_definition_without_a_name_is_not_selected(folder: Path) -> None:
    plan = make_plan(read_definition(write(folder, wrapped("<rundefinition/>", SET))), "rundefinition")
    (job,) = plan.jobs
    assert (job.id, job.selection, job.results) == ("all", ["--tasks=a"], ("a",))


def test_benchexec_takes_a_word_with_an_at_for_a_file_of_arguments() -> None:
    assert Job("a", ("",), ("a",), 1, ("a",)).arguments("@def.xml")[-1] == "./@def.xml"


def test_each_task_has_an_output_folder_of_its_own(folder: Path) -> None:
    """Two jobs that begin in the same second would use the same names."""
    plan = make_plan(read_definition(write(folder, TWO_BY_THREE)))
    commands = [json.loads(task_line(job, "def.xml"))["command"] for job in plan.jobs]
    assert [line.split()[1] for line in commands] == [f"--outputpath=results/{name}/" for name in ("a", "b", "own")]


@given(st.text(min_size=1, max_size=8, alphabet="ab*?[]!-^ \\"), st.text(max_size=8, alphabet="ab*?[]!-^ \\"))
def test_a_name_selects_itself_and_nothing_else(name: str, other: str) -> None:
    """BenchExec compares with fnmatch."""
    selected, chosen = Job("x", (name,), (name,), 1, ()).selection
    assert selected.partition("=")[2] == chosen.partition("=")[2]
    pattern = chosen.partition("=")[2]
    assert fnmatch.fnmatch(name, pattern)
    assert fnmatch.fnmatch(other, pattern) == (other == name)


def test_jobs_ids_are_folder_names_and_unique(folder: Path) -> None:
    names = ("a b", "a:b", "A_b", "..", "-x")
    sets = "".join(f'<tasks name="{name}"><withoutfile>x</withoutfile></tasks>' for name in names)
    plan = make_plan(read_definition(write(folder, wrapped("<rundefinition/>", sets))))
    assert [job.id for job in plan.jobs] == ["a_b", "a_b-2", "A_b-3", "all", "x"]


def test_variables_are_those_of_benchexec(folder: Path) -> None:
    text = wrapped(
        '<rundefinition name="c"/>', '<tasks name="a"><include>${rundefinition_name}/*.c</include></tasks>'
    )
    assert make_plan(read_definition(write(folder, text))).runs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<benchmark", r"def.xml:1:1: is no XML: unclosed token"),
        ('<?xml version="1.0" encoding="latin-99"?><a/>', "def.xml: is no XML: unknown encoding: latin-99; write it"),
        ('<?xml version="1.0" encoding="big5"?><a/>', "def.xml: is no XML: multi-byte encodings are not supported"),
        ("<html/>", "is no benchmark definition: its root is <html>"),
        ("<benchmark/>", 'names no tool; write <benchmark tool="..."'),
        (wrapped("<sourcefiles/>"), "is of an old format; rename <sourcefiles> to <tasks>"),
        (wrapped(SET), "has no run definition: nothing would run; add <rundefinition>"),
        (wrapped('<rundefinition name="r"/>'), "run definition 'r': has no tasks; add <tasks"),
        (
            wrapped("<rundefinition/>", '<rundefinition name="r"/>', SET),
            'run definition 1 of 2 has no name; write <rundefinition name="..."',
        ),
        (
            wrapped('<rundefinition name="r"/>' * 2, SET),
            "2 run definitions are called 'r'; give each a name of its own",
        ),
        (
            wrapped('<rundefinition name="r"/>', SET, "<tasks><withoutfile>y</withoutfile></tasks>"),
            "run definition 'r': task set 2 (global ones come first) has no name; write <tasks name=",
        ),
        (
            wrapped(f'<rundefinition name="r">{SET}</rundefinition>', SET),
            "run definition 'r': two task sets are called 'a'; give each a name of its own; global ones count too",
        ),
        (
            wrapped("<rundefinition/>", '<tasks name="a"><include>no/*.c</include></tasks>'),
            "task set 'a' is empty: no file matches 'no/*.c'",
        ),
        (wrapped("<rundefinition/>", '<tasks name="a"/>'), "task set 'a' is empty: it includes nothing"),
        (wrapped("<rundefinition/>", SET.replace('"a"', '"a/b"')), "task set 'a/b': bad name: names become parts"),
        (wrapped('<rundefinition name="../r"/>', SET), "run definition '../r': bad name"),
        (
            wrapped(
                f'<rundefinition name="r">{A_B}</rundefinition>',
                f'<rundefinition name="r.a">{B}</rundefinition>',
            ),
            "the results of 'r' with 'a.b' and of 'r.a' with 'b' would have the same name, r.a.b; change one",
        ),
    ],
)
def test_what_could_not_be_told_apart_or_would_not_run_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_definition(write(folder, text))
    assert message in str(caught.value)
    assert str(folder / "def.xml") in str(caught.value)


def test_a_file_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot read the definition: No such file"):
        read_definition(folder / "nosuch.xml")


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="bad --split 'file'; use one of taskset, rundefinition, both"):
        make_plan(read_definition(write(folder, TWO_BY_THREE)), "file")
