"""What an agent's heartbeat tells the dispatcher, by values."""

from __future__ import annotations

import dataclasses

import pytest

from roomful.dispatch.heartbeats import report_of
from roomful.records import ClientRecord

CLIENT = ClientRecord("a#1", "a", "live", 4, 4.0, 8 << 30, 0.25, 6 << 30, 3, 1, 0, 0, 1.5, runnable=5)


@pytest.mark.parametrize(
    ("changes", "load"),
    [
        pytest.param({}, 2.0, id="two tasks run that began a moment ago"),
        pytest.param({"running": 0, "waiting": 0}, 0.25, id="no tasks"),
        pytest.param({"load": 7.5}, 7.5, id="others' processes"),
    ],
)
def test_tasks_count_before_the_average_shows_them(changes: dict[str, float], load: float) -> None:
    report = report_of(dataclasses.replace(CLIENT, **changes), now=100.0)  # type: ignore[arg-type]
    assert report.load == load
    assert (report.running, report.cpus, report.memory, report.memory_free) == (5, 4.0, 8 << 30, 6 << 30)
    assert (report.at, report.source) == (98.5, "agent")
