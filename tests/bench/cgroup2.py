"""Agents in a control group of version 2, for machines whose kernel is set up for version 1.

Boots a Linux kernel of its own, with cgroup v2, and runs there what else runs here: the tests of what agents do when
their group's memory runs out or its CPUs are few. Needs root and Debian's packages (downloaded and unpacked into
--folder, nothing is installed).

    inv dev.bench cgroup2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.support.virtual_machines import ALONE, Kit, Machines, kit_in

CHECKOUT = Path(__file__).parents[2]
TESTS = (
    "tests/integration/test_agent_host.py",
    "tests/integration/test_lab.py::test_cpu_and_memory_limits_hold",
    "tests/integration/test_dispatch_hosts.py::test_a_quarter_of_a_cpu_counts_as_one",
)
#: What the lab's network is made of.
MODULES = ("bridge", "veth", "sch_tbf")
MEMORY_MB = 1536
MOST_SECONDS = 1200.0
GUEST = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
cd {checkout}
{python} -m tests.bench.cgroup2 --folder {folder} --load
{python} -m pytest -n0 -p no:cacheprovider -v {tests} > /srv/result 2>&1
echo $? > /srv/code
sync
{python} -c 'from tests.support.virtual_machines import power_off; power_off()'
"""


def main() -> None:
    """Boot the machine, run the tests there, and end as they did."""
    parser = argparse.ArgumentParser(prog="inv dev.bench cgroup2", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where packages are kept unpacked from one run to the next")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        for module in MODULES:
            Kit(given.folder).load(module)
        return
    if given.inside:
        run(Kit(given.folder))
        return
    with kit_in(given.folder) as kit:
        argv = [*ALONE, sys.executable, "-m", "tests.bench.cgroup2", "--folder", kit.folder, "--inside"]
        sys.exit(subprocess.run(argv, cwd=CHECKOUT, check=False).returncode)


def run(kit: Kit) -> None:
    """Boot the machine and show what the tests said; exit code 1 where one failed or none ran."""
    program = kit.folder / "guest-cgroup2"
    program.write_text(
        GUEST.format(checkout=CHECKOUT, python=sys.executable, folder=kit.folder, tests=" ".join(TESTS))
    )
    program.chmod(0o755)
    machines = Machines(kit)
    try:
        machines.wire()
        machines.boot(1, str(program), MEMORY_MB)
        machines.wait(time.monotonic() + MOST_SECONDS)
    finally:
        machines.close()
    said = kit.folder / "machine-1"
    code = said / "code"
    print((said / "result").read_text() if (said / "result").exists() else machines.console(1))
    sys.exit(not code.exists() or code.read_text().strip() != "0")


if __name__ == "__main__":
    main()
