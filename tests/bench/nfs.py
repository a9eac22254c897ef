"""dsh on a shared folder of a real NFS server: stale looks counted with its protection and without.

One machine exports a folder; a worker and the caller, each with a Linux kernel and NFS caches of its own, mount it.
Whatever one of them writes, the other has looked at before. Needs root and Debian's packages (downloaded and unpacked
into --folder, nothing is installed); the machines are slow, so times say nothing here.

    inv dev.bench nfs
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from roomful.report import table
from tests.support.nfs_guest import CALLER, SERVER, WORKER
from tests.support.virtual_machines import ALONE, Kit, Machines, kit_in

#: The defaults, a client that remembers everything for a minute, and NFS 3, as older labs have it.
MOUNTS = ("vers=4.2", "vers=4.2,actimeo=60", "vers=3,nolock")
CHECKOUT = Path(__file__).parents[2]
#: For the machines and the first round of one mount.
MOST_SECONDS, ROUND_SECONDS = 1200.0, 600.0


def main() -> None:
    """Run the trial with each kind of mount."""
    parser = argparse.ArgumentParser(prog="inv dev.bench nfs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--mount", choices=MOUNTS, action="append")
    parser.add_argument("--folder", type=Path, help="where packages are kept unpacked from one run to the next")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        run(Kit(given.folder), given.inside, given.rounds)
        return
    with kit_in(given.folder) as kit:
        make_keys(kit)
        stale = 0
        for options in given.mount or MOUNTS:
            argv = [*ALONE, sys.executable]
            words = ["-m", "tests.bench.nfs", "--folder", kit.folder, "--rounds", str(given.rounds)]
            stale += subprocess.run([*argv, *words, "--inside", options], cwd=CHECKOUT, check=False).returncode != 0
        sys.exit(stale != 0)


def make_keys(kit: Kit) -> None:
    """Make the worker's key and the caller's."""
    keys = kit.folder / "keys"
    keys.mkdir(exist_ok=True)
    for name in ("host", "user"):
        if not (keys / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)


def run(kit: Kit, options: str, rounds: int) -> None:
    """Boot the machines, wait for the caller's end and tell what it saw; exit code 1: stale with protection."""
    program = kit.folder / "guest"
    program.write_text(
        f"#!/bin/sh\ncd {CHECKOUT}\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n"
        f'exec {sys.executable} -m tests.support.nfs_guest "$@"\n'
    )
    program.chmod(0o755)
    machines = Machines(kit)
    begin = time.monotonic()
    try:
        machines.wire()
        for role, number in (("server", SERVER), ("worker", WORKER), ("caller", CALLER)):
            machines.boot(number, f"{program} {role} {options} {rounds} {kit.folder}")
        # One that fails switches itself off, and the caller at its end.
        machines.wait(begin + MOST_SECONDS + ROUND_SECONDS * (rounds - 1))
    finally:
        machines.close()
    result = kit.folder / f"machine-{CALLER}" / "result"
    rows = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    if not rows or "done" not in rows[-1]:
        for number in (SERVER, WORKER, CALLER):
            print(f"--- {number}\n{machines.console(number)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(tell(options, rows[:-1], time.monotonic() - begin))


def tell(options: str, rows: list[dict[str, str]], seconds: float) -> int:
    """Print the table; returns the number of stale looks with protection."""
    counts: Counter[tuple[str, str, str]] = Counter()
    total: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = (row["direction"], row["case"], row["protection"])
        total[key] += 1
        counts[key] += not row["good"]
    cases = dict.fromkeys((direction, case) for direction, case, _ in total)
    cells = [
        [*case, *(f"{counts[(*case, way)]} of {total[(*case, way)]}" for way in ("on", "off"))] for case in cases
    ]
    print(f"mounted with {options}: {len(rows)} trials in {seconds:.0f} s")
    print(table(cells, ["direction", "case", "stale", "stale, protection off"]))
    return sum(counts[key] for key in counts if key[2] == "on")


if __name__ == "__main__":
    main()
