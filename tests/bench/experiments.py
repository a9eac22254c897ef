"""Experiments' commands: beside OpenSSH over a warm ControlMaster, many at once, and many lines; in one run.

As root the lab has namespaces, otherwise it is rootless.

    inv dev.bench experiments
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roomful import lab
from roomful.experiments import ServerList
from roomful.experiments.journal import Journal
from roomful.experiments.logs import logger
from roomful.experiments.plan import make_plan
from roomful.experiments.provenance import Provenance
from roomful.experiments.registry import Registry, reg_exp
from roomful.experiments.results import Results
from roomful.experiments.runner import Runner, RunOptions
from roomful.experiments.servers import loading_settings
from roomful.hosts import write_host_list
from roomful.lab import Lab, LabOptions
from roomful.report import table
from roomful.settings import Settings

#: The goals: a share of ssh's time, and lines a second.
GOAL_RATIO, GOAL_LINES = 1.3, 100_000
COMMANDS, LINES = 20, 1_000_000


def run(settings: Settings, servers: ServerList, experiments: list[Callable[..., Any]]) -> list[str]:
    """Run functions as experiments; returns what went wrong."""
    registry = Registry()
    with registry.collecting():
        for function in experiments:
            reg_exp(servers=servers)(function)
    results = Results(settings.root / "results", Provenance("bench", "inv dev.bench experiments", 0, ""))
    runner = Runner(settings, RunOptions(keep_going=True), Journal(settings.root / ".roomful" / "j.jsonl"), results)
    return [one.detail for one in runner.run(make_plan(registry.registrations)) if one.status != "ok"]


def control_master(room: Lab, project: Path) -> list[str]:
    """Open a master connection to the first host; returns the argv that uses it."""
    ssh = ["ssh", "-F", str(room.ssh_config), "-o", f"ControlPath={project}/cm", "-o", "BatchMode=yes"]
    first = [*ssh, "-o", "ControlMaster=yes", "-o", "ControlPersist=300", room.hosts[0].name, "true"]
    subprocess.run(first, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return [*ssh, room.hosts[0].name]


def spawn(argv: list[str]) -> float:
    """Run a program as cheaply as Python can; returns the wall seconds."""
    begin = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    status = os.waitpid(pid, 0)[1]
    assert status == 0
    return time.perf_counter() - begin


def bench(room: Lab, project: Path, rounds: int) -> int:
    """Measure all three and print the table; returns the exit code."""
    write_host_list(project / "host_lists" / "lab.txt", room.entries)
    settings = Settings(root=project, hosts="lab", ssh_config=str(room.ssh_config), known_hosts=str(room.known_hosts))
    loading_settings.set(settings)
    servers = ServerList.from_hosts("lab")
    ssh = [*control_master(room, project), "true"]
    rows: list[list[str]] = []
    missed = []

    def judge(name: str, measured: str, goal: str, met: bool) -> None:
        rows.append([name, measured, goal, "met" if met else "MISSED"])
        if not met:
            missed.append(name)

    def start_and_finish(servers: ServerList) -> None:
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(spawn(ssh))
            begin = time.perf_counter()
            assert servers[0].run_cmd("true").wait() == 0
            ours.append(time.perf_counter() - begin)
        ratio = statistics.median(ours) / statistics.median(theirs)
        for name, times in (("ssh true, warm ControlMaster", theirs), ("run_cmd('true').wait(), warm", ours)):
            rows.append([name, f"{statistics.median(times) * 1e3:.2f} ms", "", ""])
        judge("ours / ssh", f"{ratio:.2f}x", f"<= {GOAL_RATIO}x", ratio <= GOAL_RATIO)

    def at_once(servers: ServerList) -> None:
        begin = time.perf_counter()
        # Each waits for its input: all of them run at the same time, twice as many as sshd has sessions.
        commands = [server.run_cmd("read x") for server in servers for _ in range(COMMANDS)]
        assert all(command.pid for command in commands)
        running = time.perf_counter() - begin
        for command in commands:
            command.async_stdin("go\n")
        codes = [command.wait() for command in commands]
        seconds = time.perf_counter() - begin
        name = f"{len(servers)} servers, {COMMANDS} commands each at once"
        judge(name, f"all run in {running:.2f} s, all end in {seconds:.2f} s", "all exit 0", set(codes) == {0})

    def lines(servers: ServerList) -> None:
        for name, command in (("seq", f"seq {LINES}"), ("line by line", f"seq {LINES} | sed 's/^//'")):
            seen: list[str] = []
            begin = time.perf_counter()
            servers[0].run_cmd(command, stdout=seen.append).wait()
            rate = len(seen) / (time.perf_counter() - begin)
            complete = seen == [f"{number}\n" for number in range(1, LINES + 1)]
            judge(
                f"{LINES:,} lines, {name}",
                f"{rate:,.0f} lines/s",
                f">= {GOAL_LINES:,}",
                complete and rate >= GOAL_LINES,
            )

    failed = run(settings, servers, [start_and_finish, at_once, lines])
    subprocess.run([*ssh[:-1], "-O", "exit"], capture_output=True, check=False)
    print(table(rows, ["what", "measured", "goal", ""]))
    for detail in failed:
        print(f"failed: {detail}", file=sys.stderr)
    return 1 if missed or failed else 0


def main() -> int:
    """Bring a lab up, measure in it, take it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    logger.setLevel(logging.ERROR)
    name = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        room = lab.up(LabOptions(name=name, count=options.hosts, rootless=os.geteuid() != 0))
        try:
            # A child enters the lab's network, so that this process can take the lab down.
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    if room.netns:
                        lab.enter(room.netns)
                    code = bench(room, Path(folder), options.rounds)
                    sys.stdout.flush()
                finally:
                    os._exit(code)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            lab.down(name)


if __name__ == "__main__":
    sys.exit(main())
