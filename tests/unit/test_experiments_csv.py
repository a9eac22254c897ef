"""Rows of results out of lines."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from roomful.errors import InputError, RoomfulError
from roomful.experiments import CSVGenerator, IterClassGen

LINES = ["x=3 i=10 key=b\n", "noise\n", "x=1 i=9 key=a\n", "x=7 i=2 key=b\n", "x=1.5 i=1 key=c\n"]
X = r"x=(?P<x>[0-9.]+)"


def fed(*regexes: Any, **columns: Any) -> CSVGenerator:
    generator = CSVGenerator(*regexes, **columns)
    for line in LINES:
        generator(line)
    return generator


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (X, "1.5"),
        (CSVGenerator.Default(X), "1.5"),
        (CSVGenerator.Optional(X), "1.5"),
        (CSVGenerator.Array(X), "3|1|7|1.5"),
        (CSVGenerator.SortedArray(X + r" i=(?P<i>\d+)"), "1.5|7|1|3"),
        (CSVGenerator.GroupedArray(X + r".*key=(?P<key>\w+)"), "b~3|a~1|b~7|c~1.5"),
        (CSVGenerator.Mean(X), "3.125"),
        (CSVGenerator.Max(X), "7"),
        (CSVGenerator.Min(X), "1"),
        (CSVGenerator.Sum(X), "12.5"),
        (CSVGenerator.Percentile(X, 0.5), "3"),
        (CSVGenerator.Percentile(X, 0), "1"),
        (CSVGenerator.Percentile(X, 1), "7"),
    ],
)
def test_each_kind_of_column(regex: Any, expected: str) -> None:
    assert fed(regex).as_dict == {"x": expected}


def test_a_template_is_not_shared_between_rows() -> None:
    rows = IterClassGen(CSVGenerator, [CSVGenerator.Array(X)])
    next(rows)("x=1\n")
    next(rows)("x=2\n")
    assert [row.row for row in rows] == ["1", "2"]


def test_nothing_matched() -> None:
    generator = CSVGenerator(CSVGenerator.Optional(r"a=(?P<a>.)"), CSVGenerator.Max(r"b=(?P<b>.)"), r"c=(?P<c>.)")
    with pytest.raises(RoomfulError, match=r"no value for c.*CSVGenerator\.Optional allows that"):
        _ = generator.row
    generator("c=1\n")
    assert generator.as_dict == {"a": "", "b": "0", "c": "1"}


def test_what_was_printed_is_never_evaluated() -> None:
    generator = CSVGenerator(CSVGenerator.Max(r"v=(?P<v>.*)"))
    generator("v=__import__('os').getpid()\n")
    with pytest.raises(RoomfulError, match='not a number: "__import__'):
        _ = generator.row
    numbers = CSVGenerator(CSVGenerator.Sum(r"v=(?P<v>\S+)"))
    for text in ("7", "0x10", "1e2", "007"):
        numbers(f"v={text}\n")
    assert numbers.row == "130.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["("], "bad regular expression"),
        (["no groups"], r"has no group \(\?P<name>"),
        ([r"(?P<a>.)", r"(?P<a>.)"], "column 'a' twice"),
        ([3], "not a regular expression: 3"),
    ],
)
def test_bad_regular_expressions_are_refused(arguments: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CSVGenerator(*arguments)


def test_special_groups_are_asked_for() -> None:
    with pytest.raises(InputError, match=r"SortedArray: .* has no group \(\?P<i>"):
        CSVGenerator.SortedArray(X)
    with pytest.raises(InputError, match=r"GroupedArray: .* has no group \(\?P<key>"):
        CSVGenerator.GroupedArray(X)
    with pytest.raises(InputError, match="bad percentile 50"):
        CSVGenerator.Percentile(X, 50)


def test_the_header_is_written_once_and_values_are_quoted(tmp_path: Path) -> None:
    for run in (1, 2):
        generator = fed(X, run=run, note='says "a, b"')
        generator.add_columns(later=f"l{run}")
        assert generator.header == "run,note,x,later"
        generator.write(tmp_path, "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["run", "note", "x", "later"],
        ["1", 'says "a, b"', "1.5", "l1"],
        ["2", 'says "a, b"', "1.5", "l2"],
    ]
    with pytest.raises(InputError, match="column 'x' twice"):
        generator.add_columns(x=1)


def test_a_file_with_other_columns_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RoomfulError, match=r"results.csv: the file has other columns: it has a,b, the row x"):
        fed(X).write(path)
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(RoomfulError, match="cannot write the file: No such file"):
        fed(X).write(tmp_path / "none" / "results.csv")


def test_a_row_does_not_become_part_of_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "edited.csv"
    path.write_text("x\n1")
    fed(X).write(path)
    assert path.read_text().split() == ["x", "1", "1.5"]


def test_results_of_a_run(tmp_path: Path) -> None:
    from roomful.experiments import ParameterGrid, ServerList
    from roomful.experiments.provenance import Provenance
    from roomful.experiments.registry import Registration
    from roomful.experiments.results import Result, Results

    def bench() -> None:
        """Stand for an experiment."""

    registration = Registration(
        "file", str(tmp_path / "file.py"), bench, ServerList(), ParameterGrid(a=[1, 2], b=[3])
    )
    provenance = Provenance("20260101-000000", "inv experiments.run file.py", 5, "2026-01-01T00:00:00+00:00")
    results = Results(tmp_path / "runs", provenance)
    again = Results(tmp_path / "runs", provenance)
    assert again.folder.name == "20260101-000000-2"
    for experiment in registration.experiments():
        results.add_row(experiment, {"x": "1\udcff", "a": "other", "b": "3"}, str(tmp_path / "out.csv"))
        results.add(Result(experiment, "ok"), {"s": {"kernel": "Linux"}})
    results.finish()
    with (results.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "experiment": "bench__a=1_b=3", "file": "file", "repetition": "1", "a": "1", "b": "3", "x": "1\\udcff",
        "row.a": "other",
    }  # fmt: skip
    assert json.loads((results.folder / "results.json").read_text())[1]["a"] == "2"
    document = json.loads((results.folder / "00001-bench__a=1_b=3.json").read_text())
    assert (document["params"], document["seed"], document["servers"]) == (
        {"a": 1, "b": 3},
        5,
        {"s": {"kernel": "Linux"}},
    )
    beside = json.loads((tmp_path / "out.csv.provenance.json").read_text())
    assert beside["runs"][0]["experiments"] == ["bench__a=1_b=3", "bench__a=2_b=3"]
    assert beside["runs"][0]["command_line"] == "inv experiments.run file.py"
    assert beside["runs"][0]["ended"]
    again.add_row(experiment, {"x": "2"}, str(tmp_path / "out.csv"))
    beside = json.loads((tmp_path / "out.csv.provenance.json").read_text())
    assert [run["run"] for run in beside["runs"]] == ["20260101-000000", "20260101-000000-2"]
