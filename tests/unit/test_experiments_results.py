"""What a run leaves behind, whatever its parameters are called and hold, and whoever else writes there."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from roomful.experiments import ParameterGrid, ServerList
from roomful.experiments.provenance import Provenance
from roomful.experiments.registry import Experiment, Registration
from roomful.experiments.results import Result, Results


def experiment(folder: Path, **params: Any) -> Experiment:
    def bench() -> None:
        """Stand for an experiment."""

    registration = Registration("file", str(folder / "file.py"), bench, ServerList(), ParameterGrid(**params))
    return next(iter(registration.experiments()))


def results(folder: Path) -> Results:
    return Results(folder / "runs", Provenance("run", "inv experiments.run file.py", 5, "now"))


def test_parameters_called_as_our_own_columns_do_not_replace_them(tmp_path: Path) -> None:
    run = results(tmp_path)
    run.add_row(experiment(tmp_path, file="F", experiment=["E"], repetition=9), {"x": "1"}, None)
    run.finish()
    with (run.folder / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "experiment": "bench__file=F_experiment=E_repetition=9", "file": "file", "repetition": "1",
        "param.file": "F", "param.experiment": "E", "param.repetition": "9", "x": "1",
    }  # fmt: skip


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (ENDLESS, "[[...]]"),
        (Path("x"), "x"),
        ({1: "a", "b": Path("y")}, {"1": "a", "b": "y"}),
    ],
)
def test_every_parameter_can_be_written_down(tmp_path: Path, value: Any, expected: Any) -> None:
    run = results(tmp_path)
    one = experiment(tmp_path, a=[value])
    run.add(Result(one, "ok"), {})
    (path,) = run.folder.glob("00001-*.json")
    assert json.loads(path.read_text())["params"]["a"] == expected


def test_runs_at_the_same_time_keep_each_others_entries_beside_a_file(tmp_path: Path) -> None:
    runs = [results(tmp_path) for _ in range(8)]
    one = experiment(tmp_path, a=1)
    begin = threading.Barrier(len(runs))

    def write(run: Results) -> None:
        begin.wait()
        run.add_row(one, {"x": "1"}, str(tmp_path / "out.csv"))
        run.finish()

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = json.loads((tmp_path / "out.csv.provenance.json").read_text())
    assert {run["run"] for run in document["runs"]} == {run.folder.name for run in runs}
