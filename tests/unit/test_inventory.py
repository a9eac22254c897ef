"""What the project remembers of hosts, and how quickly it is there."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from roomful.inventory import Inventory
from roomful.settings import Settings


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return Inventory(Settings(root=tmp_path))


def test_what_was_never_learnt_is_empty(inventory: Inventory) -> None:
    assert inventory.of(["a"]) == {"a": {}}


def test_each_source_replaces_only_what_it_said_itself(inventory: Inventory) -> None:
    inventory.learn("doctor", {"a": {"cpus": 2, "load": 1.0}, "b": {"cpus": 4}}, now=100.0)
    inventory.learn("rank", {"a": {"round_seconds": 0.1}}, now=150.0)
    inventory.learn("doctor", {"a": {"cpus": 8}}, now=200.0)
    assert inventory.of(["a", "b"]) == {
        "a": {"doctor": {"at": 200.0, "cpus": 8}, "rank": {"at": 150.0, "round_seconds": 0.1}},
        "b": {"doctor": {"at": 100.0, "cpus": 4}},
    }


def test_two_that_learn_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def learn(number: int) -> None:
        for turn in range(5):
            Inventory(Settings(root=tmp_path)).learn("doctor", {f"host{number}-{turn}": {"cpus": number}})

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = Inventory(Settings(root=tmp_path)).of(f"host{n}-{t}" for n in range(8) for t in range(5))
    assert all(facts["doctor"]["cpus"] == int(label[4]) for label, facts in known.items())


def test_a_thousand_hosts_are_looked_up_at_once(inventory: Inventory) -> None:
    inventory.learn("doctor", {f"host{number}": {"cpus": 4, "cpu_model": "x" * 40} for number in range(1000)})
    start = time.perf_counter()
    assert len(inventory.of(f"host{number}" for number in range(1000))) == 1000
    assert time.perf_counter() - start < 0.1


def test_looking_up_loads_nothing_heavy() -> None:
    source = "import sys, fabfile.examining, roomful.inventory, roomful.hosts; print(*sys.modules)"
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=True)
    heavy = {"paramiko", "fabric", "rich", "redis", "ClusterShell", "tabulate"}
    assert heavy.isdisjoint(done.stdout.split())
