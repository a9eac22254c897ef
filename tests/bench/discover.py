"""Discovery of a silent /20 with 60 hosts up: Roomful beside the toolbox's own nmap command, in one run.

Needs root (it makes networks in namespaces) and nmap. Several networks with hosts at other addresses, because which
addresses are up decides how long both take.

    inv dev.bench discover
    python -m tests.bench.discover --runs 5 --ordinary-user
    python -m tests.bench.discover --runs 1 --overflow

The last two have no goal for the time. In the last the router has to find the hosts by ARP, and may only ask for
1,024 at a time. That limit is one for all networks of the machine, so nothing else that needs it should run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from roomful.report import table
from tests.support.silent_network import SilentNetwork, silent_network

CHECKOUT = Path(__file__).parents[2]
#: Share of the time of the toolbox's command (with -n) that Roomful may take, both as root.
GOAL = 0.25


def ours(room: SilentNetwork, project: Path, ordinary_user: bool) -> tuple[float, set[str]]:
    """Return the seconds of `inv discover`, its start included, and the hosts that it found up."""
    inv = [sys.executable, "-m", "invoke", "discover", "--network", str(room.network), "--json", "--dns-timeout", "0"]
    start = time.monotonic()
    argv = room.argv(*inv, ordinary_user=ordinary_user)
    # Invoke reads a file in the home, and root's is closed to others.
    env = {**os.environ, "HOME": str(project)}
    done = subprocess.run(argv, cwd=project, env=env, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - start, {host["address"] for host in json.loads(done.stdout)["hosts"]}


def toolbox(room: SilentNetwork, ordinary_user: bool) -> tuple[float, set[str]]:
    """Return the same of the toolbox's command, with -n: there is no name server here."""
    nmap = ["nmap", "-sn", "-n", str(room.network), "--max-rtt-timeout", "60ms"]
    start = time.monotonic()
    done = subprocess.run(room.argv(*nmap, ordinary_user=ordinary_user), capture_output=True, text=True, check=True)
    return time.monotonic() - start, set(re.findall(r"^Nmap scan report for (\S+)$", done.stdout, re.MULTILINE))


def main() -> int:
    """Print a row for each network; exit code 1 if a host was missed or the goal was not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="networks to scan")
    parser.add_argument("--ordinary-user", action="store_true", help="scan without root's raw packets")
    parser.add_argument("--overflow", action="store_true", help="behind a router that cannot keep up")
    chosen = parser.parse_args()
    rows: list[list[str]] = []
    ratios: list[float] = []
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        project.chmod(0o755)
        (project / "tasks.py").write_text(
            f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n"
        )
        for seed in range(1, chosen.runs + 1):
            with silent_network(seed=seed, resolving=chosen.overflow) as room:
                seconds, found = ours(room, project, chosen.ordinary_user)
                room.forget()
                their_seconds, they_found = toolbox(room, chosen.ordinary_user)
            complete = complete and found == room.up
            ratios.append(seconds / their_seconds)
            rows.append(
                [
                    str(seed),
                    *(f"{seconds:.2f} s", f"{len(found & room.up)} of {len(room.up)}"),
                    *(f"{their_seconds:.2f} s", f"{len(they_found & room.up)} of {len(room.up)}"),
                    f"{ratios[-1]:.2f}x",
                ]
            )
    print(table(rows, ["network", "inv discover", "found", "nmap -sn -n", "found", "ratio"]))
    median = statistics.median(ratios)
    timed = not (chosen.overflow or chosen.ordinary_user)
    met = complete and (median <= GOAL or not timed)
    goal = f", goal {GOAL:.2f}x" if timed else ""
    print(f"median {median:.2f}x{goal}, {'all found' if complete else 'hosts missed'}: {'met' if met else 'NOT MET'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
