"""A large payload to many hosts through a slow uplink: relayed, beside one copy and rsync one by one, in one lab.

Needs root (it makes a lab in namespaces). The hosts get a key to each other, as where they share a home.

    inv dev.bench broadcast                             200 MB to 16 hosts through 200 Mbit/s
    python -m tests.bench.broadcast --megabytes 50      less of it
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from roomful import lab
from roomful.hosts import write_host_list
from roomful.lab import Lab, LabOptions
from roomful.report import table

ROOT = Path(__file__).parents[2]
#: The ways to relay, and the goal for each, as a multiple of the time that one copy takes.
RELAYS = {"chain": ("relay, SSH from host to host", 2.0), "direct": ("relay, direct from host to host", 1.3)}


def deploy(room: Lab, project: Path, workdir: str, hosts: str, relay: str) -> tuple[float, str]:
    """Deploy into a new workdir; returns the wall seconds and what was said of the relay."""
    settings = {"INVOKE_ROOMFUL_WORKDIR": workdir, "INVOKE_ROOMFUL_SSH_CONFIG": str(room.ssh_config)}
    settings["INVOKE_ROOMFUL_KNOWN_HOSTS"] = str(room.known_hosts)
    argv = [sys.executable, "-m", "invoke", "deploy", "--hosts", hosts, "--relay", relay]
    start = time.monotonic()
    done = subprocess.run(
        argv, cwd=project, env=os.environ | settings, capture_output=True, text=True, timeout=900, check=False
    )
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds, next((line for line in done.stderr.splitlines() if line.startswith("relay:")), "")


def on(room: Lab, host: str, command: str) -> str:
    """Run a command on a host; it must succeed."""
    argv = ["ip", "netns", "exec", str(room.netns), "ssh", "-F", str(room.ssh_config), "-o", "BatchMode=yes", host]
    return subprocess.run([*argv, command], capture_output=True, text=True, timeout=300, check=True).stdout


def compare(room: Lab, project: Path, names: Sequence[str]) -> list[list[object]]:
    """Measure one copy, the relays to all, and two copies one after the other."""
    key = base64.b64encode((room.directory / "id_ed25519").read_bytes()).decode()
    for name in names:
        on(room, name, f"umask 077; mkdir -p .ssh; echo {key} | base64 -d > .ssh/id_ed25519")
    one, _ = deploy(room, project, "~/one", names[0], "off")
    on(room, names[0], "rm -rf one")
    rows: list[list[object]] = [["one copy", 1, f"{one:.1f}", "1.00x", "", ""]]
    for relay, (what, goal) in RELAYS.items():
        relayed, note = deploy(room, project, "~/relayed", "lab", relay)
        sums = {on(room, name, "sha256sum < relayed/payload; rm -rf relayed") for name in names}
        print(f"\n{note}\ncopies that differ from the others: {len(sums) - 1}")
        met = "yes" if relayed <= goal * one else "no"
        rows.append([what, len(names), f"{relayed:.1f}", f"{relayed / one:.2f}x", f"<= {goal:.1f}x", met])
    few = names[:2]
    by_turns = 0.0
    for name in few:
        by_turns += deploy(room, project, "~/turns", name, "off")[0]
        on(room, name, "rm -rf turns")
    all_by_turns = by_turns * len(names) / len(few)
    what = f"rsync one by one (measured: {len(few)}, the rest in proportion)"
    return [*rows, [what, len(names), f"{all_by_turns:.1f}", f"{all_by_turns / one:.2f}x", "", ""]]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=16, help="size of the lab")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the payload")
    parser.add_argument("--megabits", type=int, default=200, help="uplink, in Mbit/s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roomful-bench-") as folder:
        project = Path(folder)
        (project / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
        (project / "resources").mkdir()
        # Random: rsync compresses.
        (project / "resources" / "payload").write_bytes(os.urandom(options.megabytes * 1_000_000))
        uplink = options.megabits * 1_000_000
        room = lab.up(LabOptions(count=options.hosts, name=f"b{os.getpid()}", rootless=False, uplink=uplink))
        try:
            write_host_list(project / "host_lists" / "lab.txt", room.entries)
            for host in room.entries:
                write_host_list(project / "host_lists" / f"{host.name}.txt", [host])
            rows = compare(room, project, [host.name for host in room.entries])
            print(f"{options.megabytes} MB through {options.megabits} Mbit/s")
            print(table(rows, ["how", "hosts", "seconds", "ratio to one copy", "goal", "met"]), flush=True)
        finally:
            lab.down(room.name)


if __name__ == "__main__":
    main()
