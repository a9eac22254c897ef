"""How rounds become speeds, and speeds become weights."""

from __future__ import annotations

import pytest

from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes
from roomful.rank import Speed, benchmark_source, ranked, speed_of, weighted


def outcome(name: str, seconds: float | None) -> Outcome[Speed]:
    if seconds is None:
        return Outcome(Host(name), "unreachable", "timeout")
    return Outcome(Host(name, memory_weight=3.0, attributes={"rack": "7"}), "ok", value=Speed(seconds, seconds, 7))


OUTCOMES = Outcomes([outcome("slow", 0.3), outcome("off", None), outcome("quick", 0.1), outcome("middle", 0.15)])


def test_one_disturbed_round_does_not_count() -> None:
    speed = speed_of([(0.1, 0.09), (9.0, 0.1), (0.1, 0.11)])
    assert (speed.seconds, speed.cpu_seconds, speed.rounds) == (0.1, 0.1, 3)


@pytest.mark.parametrize(("wall", "cpu", "share"), [(0.2, 0.1, 0.5), (0.1, 0.11, 1.0), (0.0, 0.0, 1.0)])
def test_the_share_of_a_cpu(wall: float, cpu: float, share: float) -> None:
    assert Speed(wall, cpu, 1).share == share


def test_the_fastest_comes_first_and_hosts_without_a_result_last() -> None:
    assert [item.host.name for item in ranked(OUTCOMES)] == ["quick", "middle", "slow", "off"]


def test_weights_are_relative_to_the_fastest_and_the_rest_of_the_line_stays() -> None:
    hosts = weighted(OUTCOMES)
    assert [(host.name, host.load_weight) for host in hosts] == [("quick", 1.0), ("middle", 1.5), ("slow", 3.0)]
    assert {(host.memory_weight, host.attributes["rack"]) for host in hosts} == {(3.0, "7")}
    assert [host.name for host in weighted(OUTCOMES, top=2)] == ["quick", "middle"]
    assert weighted(Outcomes([outcome("off", None)])) == ()


def test_the_program_says_its_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    code = compile(benchmark_source().replace("__main__", "nothing"), "benchmark", "exec")
    names: dict[str, object] = {"__name__": "roomful_benchmark"}
    exec(code, names)
    names["TIMES"] = 1
    names["main"](2)  # type: ignore[operator]  # a function of the program
    marker, _, rounds = capsys.readouterr().out.strip().partition(" ")
    assert marker == "roomful-benchmark"
    assert rounds.count("[") == 3
