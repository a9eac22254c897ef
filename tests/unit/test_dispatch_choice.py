"""Which host is chosen: scores, weights, virtual load, limits; all by values."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from roomful.dispatch.choice import Limits, choose, default_score, load_score, refusal, why_none
from roomful.dispatch.job import Order
from roomful.dispatch.load import HostLoad, Report, VirtualLoad
from roomful.dispatch.wire import Request
from roomful.errors import InputError
from roomful.hosts import parse_line

GIB = 2**30
ANY = Limits()


def seen(line: str, load: float = 0.0, cpus: float = 4.0, free: int = 8 * GIB, **changes: object) -> HostLoad:
    """A host as a report of this moment makes it look."""
    host = parse_line(line, "test")
    assert host
    report = Report(load, 0, cpus, 16 * GIB, free, at=0.0)
    return HostLoad(**{"host": host, "report": report, "age": 0.1, **changes})  # type: ignore[arg-type]


def best(*hosts: HostLoad, limits: Limits = ANY) -> str | None:
    chosen = choose(hosts, default_score, limits)
    return chosen.host.name if chosen else None


@pytest.mark.parametrize(
    ("one", "other", "winner"),
    [
        pytest.param(seen("a", 0.5), seen("b", 3.0), "a", id="less load"),
        pytest.param(seen("a", 2.0, cpus=2), seen("b", 3.0, cpus=16), "b", id="less load a CPU"),
        pytest.param(seen("a 2.0"), seen("b 1.0"), "b", id="load weight 2 is half as fast, as in dsh"),
        pytest.param(seen("a 2.0", 0.0), seen("b", 2.0), "a", id="half as fast, but idle"),
        pytest.param(seen("a", free=GIB // 8), seen("b", 1.0), "b", id="no memory left"),
        pytest.param(
            seen("a 1 2", free=GIB), seen("b 1 1", free=GIB), "a", id="memory weight 2 is better, as in dsh"
        ),
        pytest.param(seen("a", virtual=1.0), seen("b"), "b", id="virtual load"),
        pytest.param(seen("a", 5.0, virtual=-5.0), seen("b", 1.0), "a", id="what ended is still in the average"),
        pytest.param(seen("a", 0.0, ours=2), seen("b", 1.0), "b", id="what we run there counts, whatever it says"),
        pytest.param(seen("a", age=5.0), seen("b", 9.0), "b", id="three periods without a report"),
        pytest.param(seen("a", report=None), seen("b", 9.0), "b", id="never reported"),
        pytest.param(seen("a", unusable="lost: cut"), seen("b", 9.0), "b", id="lost"),
        pytest.param(seen("a", turn=4), seen("b", turn=3), "b", id="among equals the one that waited longest"),
    ],
)
def test_the_better_host_is_chosen(one: HostLoad, other: HostLoad, winner: str) -> None:
    assert best(one, other) == winner
    assert best(other, one) == winner


def test_a_host_that_is_asked_for_is_taken_however_busy_it_is() -> None:
    assert best(seen("a", 99.0), seen("b"), limits=Limits(max_load=1.0, on="a")) == "a"


def test_hosts_above_the_greatest_load_are_left_out() -> None:
    hosts = [seen("a", 8.0), seen("b 3.0", 4.0)]
    assert best(*hosts, limits=Limits(max_load=2.0)) == "a"
    assert best(*hosts, limits=Limits(max_load=1.9)) is None
    # The weight counts: 4.0 / 4 CPUs * 3.0.
    assert why_none(hosts, Limits(max_load=1.9)) == "a, b: load 2.00 to 3.00 a CPU is above 1.9"


def test_commands_that_have_ended_are_no_load_that_could_be_too_much() -> None:
    assert best(seen("a", 1.0, virtual=5.0, recent=5.0), limits=Limits(max_load=0.25)) == "a"
    assert best(seen("a", 1.0, virtual=5.0, recent=4.0), limits=Limits(max_load=0.25)) is None


def test_hosts_that_were_tried_are_left_out() -> None:
    assert best(seen("a"), seen("b", 3.0), limits=Limits(avoid=frozenset({"a"}))) == "b"


def test_why_no_host_names_each_reason_once() -> None:
    hosts = [seen(f"n{number}", unusable="refused") for number in range(5)] + [seen("x", age=7.0)]
    said = why_none(hosts, Limits())
    assert said == "n0, n1, n2 and 2 more: refused; x: no report of its load for 7.0 s"
    assert why_none(hosts, Limits(on="y")) == "y is none of the dispatcher's hosts, which are n0, n1, n2 and 3 more"
    assert refusal(seen("a"), Limits()) == ""


def test_a_host_that_was_chosen_serves_its_command_also_when_its_reports_are_late() -> None:
    """rsync runs for a command on an overloaded host: a second choice would fail it."""
    late = seen("a", age=60.0)
    assert choose([late], lambda _: math.inf, Limits(on="a", chosen=True)) is late
    assert choose([late], default_score, Limits(on="a")) is None
    assert choose([seen("a", unusable="lost")], default_score, Limits(on="a", chosen=True)) is None
    assert Order.of(Request("run", {"cwd": "/", "rsh": "yes", "on": "a"}, {}, ("host", "rsync"))).limits.chosen
    assert not Order.of(Request("run", {"cwd": "/", "on": "a"}, {}, ("rsync",))).limits.chosen


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_evaluation_can_refuse_a_host(value: float) -> None:
    def score(host: HostLoad) -> float:
        return value if host.host.name == "a" else 1.0

    chosen = choose([seen("a"), seen("b")], score, Limits())
    assert chosen
    assert chosen.host.name == "b"
    assert choose([seen("a")], score, Limits()) is None


def test_the_evaluation_is_replaceable() -> None:
    assert load_score("") is default_score
    assert load_score("math:sqrt") is math.sqrt
    for bad in ("nothing_like_it:score", "math:nothing", "math", "math:pi"):
        with pytest.raises(InputError):
            load_score(bad)


# --- virtual load ---


def burst(weights: list[float], count: int, duration: float, gap: float) -> Counter[int]:
    """Send ``count`` commands of ``duration`` seconds, one every ``gap`` seconds; hosts report only idleness."""
    virtual = [VirtualLoad() for _ in weights]
    turns = [0] * len(weights)
    running: list[tuple[float, int, float]] = []
    chosen: Counter[int] = Counter()
    for number in range(count):
        now = 100.0 + number * gap
        for ended, host, started in [entry for entry in running if entry[0] <= now]:
            virtual[host].ended(started, ended)
            running.remove((ended, host, started))
        hosts = [
            seen(f"h{i} {weight}", virtual=virtual[i].value(now), ours=virtual[i].running, turn=turns[i])
            for i, weight in enumerate(weights)
        ]
        best = choose(hosts, default_score, Limits())
        assert best
        host = int(best.host.name[1:])
        turns[host] = number + 1
        virtual[host].sent(now)
        running.append((now + duration, host, now))
        chosen[host] += 1
    return chosen


@pytest.mark.parametrize("duration", [0.001, 0.5, 1000.0])
@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_a_burst_spreads_over_equal_hosts(duration: float, gap: float) -> None:
    chosen = burst([1.0] * 8, 200, duration, gap)
    assert max(chosen.values()) <= 1.3 * 200 / 8


@pytest.mark.parametrize("duration", [0.001, 1000.0])
def test_hosts_weighted_1_and_2_share_2_to_1(duration: float) -> None:
    chosen = burst([1.0, 2.0], 200, duration, 0.005)
    assert 1.8 <= chosen[0] / chosen[1] <= 2.2


def test_without_virtual_load_a_burst_would_herd() -> None:
    """What the spreading is made of: without it and the turns, equal hosts are no more equal than their order."""
    hosts = [seen("a", 0.1), seen("b", 0.2)]
    assert Counter(best(*hosts) for _ in range(10)) == {"a": 10}


def test_a_command_counts_while_it_runs_until_the_average_shows_it() -> None:
    virtual = VirtualLoad()
    virtual.sent(100.0)
    assert virtual.value(100.0) == 1.0
    virtual.reported(160.0)
    # After a minute the kernel's average has 63 % of it.
    assert virtual.value(160.0) == pytest.approx(math.exp(-1), abs=0.01)
    virtual.reported(1000.0)
    assert virtual.value(1000.0) == pytest.approx(0.0, abs=0.01)


def test_what_the_average_shows_of_an_ended_command_is_taken_off() -> None:
    virtual = VirtualLoad()
    virtual.sent(0.0)
    virtual.ended(0.0, 60.0)
    virtual.reported(60.0)
    assert virtual.value(60.0) == pytest.approx(-(1 - math.exp(-1)), abs=0.01)
    virtual.reported(600.0)
    assert virtual.value(600.0) == pytest.approx(0.0, abs=0.01)


def test_a_host_that_was_named_to_somebody_counts_as_busier_for_a_moment() -> None:
    virtual = VirtualLoad()
    virtual.promised(10.0)
    assert virtual.value(10.0) == 1.0
    assert virtual.value(20.0) < 0.01


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"load": "x", "running": 0, "cpus": 1, "memory": 1, "memory_free": 1},
        {"load": -1, "running": 0, "cpus": 1, "memory": 1, "memory_free": 1},
        {"load": 0, "running": 0, "cpus": 0, "memory": 1, "memory_free": 1},
        {"load": math.nan, "running": 0, "cpus": 1, "memory": 1, "memory_free": 1},
        {"load": [], "running": 0, "cpus": 1, "memory": 1, "memory_free": 1},
        {"error": "no /proc"},
    ],
)
def test_a_report_that_makes_no_sense_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"load|float|convert"):
        Report.of(said, 0.0)
