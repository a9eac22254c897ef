"""The task queue: no-op shell tasks beside other runners, submissions, memory, claims and idle costs, in one run.

One agent on two CPUs does what the peers do: starts `/bin/sh -c true` for each task, keeps what it writes, and knows
how it ended. Rounds of ours and of a peer alternate; each row has the median of their ratios.

    inv dev.bench queue
    python -m tests.bench.queue --hyperqueue PYTHON
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roomful.queue import Queue, TaskSpec
from roomful.report import table
from tests.support.agents import PATIENCE, Room, Scripted, a_room
from tests.support.valkey import private_valkey
from tests.support.waiting import wait_until

#: The goals: ours / its, tasks a second, bytes, a ratio, MB and shares of a core.
GOAL_XARGS, GOAL_HYPERQUEUE = 1.0, 3.0
GOAL_SUBMIT, GOAL_BYTES, GOAL_CLAIM = 150_000, 250, 1.2
GOAL_IDLE_MB, GOAL_IDLE_CPU, GOAL_SERVER_CPU = 30.0, 0.5, 5.0
POLLING_AGENTS = 64
_HYPERQUEUE = """
import sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
count, cpus = int(sys.argv[1]), sys.argv[2]
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=int(cpus)))
    client = cluster.client()
    job = Job()
    for _ in range(count):
        job.program(["/bin/sh", "-c", "true"])
    begin = time.monotonic()
    client.wait_for_jobs([client.submit(job)])
    print("seconds", time.monotonic() - begin)
"""


def words(count: int) -> bytes:
    """Make input for xargs and parallel."""
    return "".join(f"{number}\n" for number in range(count)).encode()


def spawned(argv: list[str], count: int, folder: Path) -> float:
    """Run a program that starts ``count`` tasks, one for each line of its input; returns tasks a second."""
    begin = time.monotonic()
    subprocess.run(argv, input=words(count), stdout=subprocess.DEVNULL, cwd=folder, check=True)
    return count / (time.monotonic() - begin)


def hyperqueue(python: str, count: int, folder: Path) -> float:
    """Run HyperQueue's LocalCluster with its defaults; returns tasks a second, without its start."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        argv = [python, "-c", _HYPERQUEUE, str(count), "2"]
        done = subprocess.run(argv, cwd=inside, capture_output=True, text=True, check=True)
    said = next(line for line in done.stdout.splitlines() if line.startswith("seconds "))
    return count / float(said.split()[1])


def ours(room: Room, count: int) -> float:
    """Submit no-op tasks to the room's agent and wait for their ends; returns tasks a second."""
    specs = [TaskSpec(command="true")] * count
    begin = time.monotonic()
    room.queue.submit(specs, allow_duplicates=True)
    assert room.queue.wait(timeout=600)
    seconds = time.monotonic() - begin
    counts = room.queue.counts()
    assert (counts.done, counts.failed) == (count, 0)
    room.queue.reset()
    return count / seconds


class Sheet:
    """The table, and whether all goals are met."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.met = True

    def row(self, what: str, measured: str, ratio: str = "", goal: str = "", met: bool | None = None) -> None:
        """Add a row; ``met`` is None where there is no goal."""
        self.rows.append([what, measured, ratio, goal, "" if met is None else "yes" if met else "no"])
        self.met = self.met and met is not False


def throughput(sheet: Sheet, folder: Path, python: str, rounds: int, count: int) -> None:
    """Compare tasks a second with each peer's."""
    peers: list[tuple[str, str, Callable[[int], float] | None, float | None, int]] = []
    shell = ["sh", "-c", "true"]
    for name, argv, package, goal, share in (
        ("xargs -P2 -n1", ["xargs", "-P2", "-n1", *shell], "findutils", GOAL_XARGS, 1),
        ("GNU parallel -j2", ["parallel", "-j2", "--will-cite", "sh -c true {}"], "parallel", None, 4),
    ):
        there = shutil.which(argv[0])
        run = (lambda number, argv=argv: spawned(argv, number, folder)) if there else None
        peers.append((name, f"apt install {package}", run, goal, share))
    found = python != sys.executable or importlib.util.find_spec("hyperqueue")
    run = (lambda number: hyperqueue(python, number, folder)) if found else None
    peers.append(("HyperQueue LocalCluster", "pip install hyperqueue", run, GOAL_HYPERQUEUE, 4))
    with a_room() as room:
        # The peers' tasks are not nice either.
        room.queue.configure({"nice": 0})
        # As for who has called start-server on his own machine.
        room.queue.data = room.valkey.folder
        room.start("bench", cpus=2)
        ours(room, count // 4)
        mine: list[float] = []
        for name, install, its, goal, share in peers:
            if its is None:
                sheet.row(name, f"not installed ({install})")
                continue
            rates, ratios = [], []
            for _ in range(rounds):
                rates.append(its(count // share))
                mine.append(ours(room, count))
                ratios.append(mine[-1] / rates[-1])
            ratio = statistics.median(ratios)
            said = "" if goal is None else f">= {goal:.2f}x"
            met = None if goal is None else ratio >= goal
            sheet.row(name, f"{statistics.median(rates):,.0f} tasks/s", f"{ratio:.2f}x", said, met)
        sheet.row("Roomful", f"{statistics.median(mine):,.0f} tasks/s")


def submission(sheet: Sheet, folder: Path, rounds: int, count: int) -> None:
    """Measure submissions, memory and what a claim costs, on a server of their own."""
    with private_valkey(folder) as server, Queue.connect(server.socket, "bench") as queue:
        queue.data = server.folder
        specs = [TaskSpec(command=f"./solve --instance {number:09} --seed 1 > out.txt") for number in range(count)]
        rates, before = [], memory_of(server.client())
        for number in range(rounds):
            queue.reset()
            begin = time.monotonic()
            assert queue.submit(specs).added == count
            rates.append(count / (time.monotonic() - begin))
            if not number:
                # Later the server may still be freeing what was there before.
                each = (memory_of(server.client()) - before) / count
        rate = statistics.median(rates)
        sheet.row("submit", f"{rate:,.0f} tasks/s", "", f">= {GOAL_SUBMIT:,}", rate >= GOAL_SUBMIT)
        sheet.row(f"memory, {count:,} queued", f"{each:.0f} bytes/task", "", f"<= {GOAL_BYTES}", each <= GOAL_BYTES)
        times = {}
        for queued in (count, 1000):
            if queued != count:
                queue.reset()
                queue.submit(specs[:queued])
            # Not while the server writes its file anew: its child takes a core, and each page changed costs a copy.
            wait_until(lambda: not rewriting(server.client()), 120)
            agent = Scripted(queue, "claimer", cpus=2000)
            # A fast one in ten: what others on this machine do shows in the slow ones.
            times[queued] = statistics.quantiles((claim_time(agent) for _ in range(1000)), n=10)[0]
        ratio = times[count] / times[1000]
        measured = f"{times[count] * 1e6:.0f} us beside {times[1000] * 1e6:.0f} us at 1,000"
        sheet.row(f"claim at {count:,}", measured, f"{ratio:.2f}x", f"<= {GOAL_CLAIM:.2f}x", ratio <= GOAL_CLAIM)


def memory_of(client: Any) -> int:
    """Return what the server's data take."""
    return int(client.info("memory")["used_memory"])


def rewriting(client: Any) -> bool:
    """Tell whether the server rewrites its append-only file."""
    said = client.info("persistence")
    return bool(said["aof_rewrite_in_progress"] or said["aof_rewrite_scheduled"])


def claim_time(agent: Scripted) -> float:
    """Claim two tasks and give them back; returns the claim's seconds."""
    begin = time.perf_counter()
    claimed = agent.claim(2)
    seconds = time.perf_counter() - begin
    assert len(claimed) == 2
    agent.requeue("released", *((task_id, attempt, 0) for task_id, attempt in claimed))
    return seconds


def pss(pid: int) -> int:
    """Return a process's share of memory, in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def cpu(pids: list[int]) -> float:
    """Return the CPU seconds that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def share_of_core(pids: list[int], seconds: float) -> float:
    """Watch processes for a while; returns percents of one core."""
    before, begin = cpu(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu(pids) - before) / (time.monotonic() - begin) * 100


def idle(sheet: Sheet, seconds: float) -> None:
    """Measure what agents cost that have nothing to do."""
    with a_room() as room:
        room.start("idle")
        pids = [room.guard_pid("idle"), room.worker_pid("idle")]
        size = sum(map(pss, pids)) / 1e6
        sheet.row("idle agent, memory", f"{size:.1f} MB PSS", "", f"< {GOAL_IDLE_MB:g}", size < GOAL_IDLE_MB)
        used = share_of_core(pids, seconds)
        sheet.row("idle agent, CPU", f"{used:.2f} % of a core", "", f"< {GOAL_IDLE_CPU:g}", used < GOAL_IDLE_CPU)
        for number in range(POLLING_AGENTS - 1):
            room.start(f"idle{number}")
        wait_until(lambda: len(room.queue.clients()) == POLLING_AGENTS, PATIENCE)
        assert room.valkey.process
        used = share_of_core([room.valkey.process.pid], seconds)
        name = f"server, {POLLING_AGENTS} idle agents"
        sheet.row(name, f"{used:.2f} % of a core", "", f"< {GOAL_SERVER_CPU:g}", used < GOAL_SERVER_CPU)


def main() -> int:
    """Measure and print one table; exit code 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=6000, help="no-op tasks a round")
    parser.add_argument("--queued", type=int, default=1_000_000, help="tasks that wait while claims are measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long idle agents are watched")
    parser.add_argument("--hyperqueue", default=sys.executable, help="the Python that has hyperqueue installed")
    parser.add_argument("--only", choices=("throughput", "submission", "idle"), help="measure only this")
    options = parser.parse_args()
    sheet = Sheet()
    with tempfile.TemporaryDirectory(prefix="rf-bench-") as name:
        folder = Path(name)
        if options.only in (None, "throughput"):
            throughput(sheet, folder, options.hyperqueue, options.rounds, options.tasks)
        if options.only in (None, "submission"):
            submission(sheet, folder, min(options.rounds, 3), options.queued)
        if options.only in (None, "idle"):
            idle(sheet, options.seconds)
    print(table(sheet.rows, ["what", "measured", "ours / its", "goal", "met"]))
    return 0 if sheet.met else 1


if __name__ == "__main__":
    sys.exit(main())
