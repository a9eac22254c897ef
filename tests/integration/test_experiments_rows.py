"""Rows of results made of what real hosts print: every kind of column, lists by address, counters."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from roomful.experiments import CSVGenerator, ServerList, any_failed, counter
from roomful.lab import Lab
from tests.support.experiments import Perform, ok, performer, servers_of
from tests.support.lab import settings_for

X = r"x=(?P<x>[0-9.]+)"
PRINTS = "printf 'x=3 i=10 key=b\\nnoise\\nx=1 i=9 key=a\\nx=7 i=2 key=b\\nx=1.5 i=1 key=c\\n'"


@pytest.fixture
def servers(rootless_lab: Lab, tmp_path: Path) -> ServerList:
    return servers_of(settings_for(rootless_lab, tmp_path))


@pytest.fixture
def perform(rootless_lab: Lab, tmp_path: Path, servers: ServerList) -> Perform:
    return performer(settings_for(rootless_lab, tmp_path), servers)


def test_every_kind_of_column_is_filled_by_a_hosts_lines(perform: Perform, tmp_path: Path) -> None:
    kinds = {
        "last": CSVGenerator.Default(X),
        "array": CSVGenerator.Array(X),
        "sorted": CSVGenerator.SortedArray(X + r" i=(?P<i>\d+)"),
        "grouped": CSVGenerator.GroupedArray(X + r".*key=(?P<key>\w+)"),
        "mean": CSVGenerator.Mean(X),
        "max": CSVGenerator.Max(X),
        "min": CSVGenerator.Min(X),
        "sum": CSVGenerator.Sum(X),
        "median": CSVGenerator.Percentile(X, 0.5),
        "absent": CSVGenerator.Optional(r"y=(?P<x>\d+)"),
    }
    expected = {
        "last": "1.5",
        "array": "3|1|7|1.5",
        "sorted": "1.5|7|1|3",
        "grouped": "b~3|a~1|b~7|c~1.5",
        "mean": "3.125",
        "max": "7",
        "min": "1",
        "sum": "12.5",
        "median": "3",
        "absent": "",
    }
    found: dict[str, str] = {}

    def prints(servers: ServerList) -> None:
        rows = {name: CSVGenerator(kind, kind=name) for name, kind in kinds.items()}
        commands = [server.run_cmd(PRINTS, stdout=list(rows.values())) for server in servers[:1]]
        assert not any_failed(commands)
        for name, row in rows.items():
            assert row.header == "kind,x"
            found[name] = row.as_dict["x"]
            row.write(tmp_path / "rows.csv")

    ok(perform(prints))
    assert found == expected
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["kind", "x"], *([name, value] for name, value in expected.items())]


def test_one_command_for_each_address_and_numbers_that_rise(perform: Perform) -> None:
    numbers = counter(10, 5)
    said: list[str] = []

    def census(servers: ServerList) -> None:
        # Rootless hosts have addresses of their own; a second name for the first one is no machine of its own.
        twice = ServerList(*servers, type(servers[0])("again", servers[0].ip, servers[0].port))
        assert [server.id for server in twice.unique_by_ip] == [server.id for server in servers]
        for server in twice.unique_by_ip:
            server.run_cmd(f"echo {next(numbers)} $(hostname)", stdout=said.append).wait()

    ok(perform(census))
    assert said == ["10 lab01\n", "15 lab02\n", "20 lab03\n"]
