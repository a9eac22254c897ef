"""Time the same short computation on every host, and order the hosts by it."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from roomful.access import check_shell
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.ssh import HostConnection, fan_out

ROUNDS = 7
#: A host that takes longer for all rounds is too slow to be of use.
BENCHMARK_SECONDS = 60.0


@dataclass(frozen=True)
class Speed:
    """How long one round takes on a host: the median of several, in wall seconds, and of CPU time in them."""

    seconds: float
    cpu_seconds: float
    rounds: int

    @property
    def share(self) -> float:
        """The share of a CPU that the rounds got: well below 1 on a host that is busy or limited."""
        return min(1.0, self.cpu_seconds / self.seconds) if self.seconds else 1.0


def speed_of(rounds: Sequence[tuple[float, float]]) -> Speed:
    """Sum up rounds of wall and CPU seconds by their medians: one round that was disturbed does not count."""
    wall, cpu = zip(*rounds, strict=True)
    return Speed(statistics.median(wall), statistics.median(cpu), len(rounds))


@functools.cache
def benchmark_source() -> str:
    """Return the program that every host runs."""
    return (resources.files("roomful.remote") / "benchmark.py").read_text(encoding="utf-8")


def measure(
    hosts: Sequence[Host], settings: Settings, on_outcome: Callable[[Outcome[Speed]], None] | None = None
) -> Outcomes[Speed]:
    """Run the benchmark on every host at the same time."""

    def work(connection: HostConnection) -> Speed:
        check_shell(connection)
        done = connection.python(benchmark_source(), str(ROUNDS), timeout=BENCHMARK_SECONDS)
        try:
            rounds = json.loads(done.stdout.rpartition(b"roomful-benchmark ")[2])
            return speed_of([(float(wall), float(cpu)) for wall, cpu in rounds])
        except (ValueError, TypeError) as error:
            raise HostFailure("protocol", f"the benchmark answers nothing sensible: {error}") from error

    return fan_out(hosts, work, settings, on_outcome)


def ranked(outcomes: Outcomes[Speed]) -> Outcomes[Speed]:
    """Order the outcomes: the fastest host first, hosts without a result last."""
    return Outcomes(sorted(outcomes, key=lambda outcome: outcome.value.seconds if outcome.value else float("inf")))


def weighted(outcomes: Outcomes[Speed], top: int = 0) -> tuple[Host, ...]:
    """Return the hosts that were timed, fastest first, at most ``top`` (0: all), with new load weights.

    The fastest has 1, a host that takes twice as long 2, as in dsh.
    """
    timed = [(outcome.host, outcome.value.seconds) for outcome in ranked(outcomes) if outcome.value]
    return tuple(
        dataclasses.replace(host, load_weight=float(f"{seconds / timed[0][1]:.3g}"))
        for host, seconds in timed[: top or None]
    )
