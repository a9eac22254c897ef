"""Fan-out of ``true`` to cold hosts: Roomful beside clush, pssh, pdsh and Ansible, in the same lab, in one run.

Needs root (it makes a lab in namespaces). Peers that are not installed are named with the command that adds them.

    inv dev.bench fanout                    64 and 256 hosts, then 256 with a tenth of them dead
    inv dev.bench fanout -- --hosts 64      only that size
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful import lab
from roomful.hosts import write_host_list
from roomful.lab import Lab, LabOptions
from roomful.openssh import KEX_ALGORITHMS
from roomful.report import table

ROOT = Path(__file__).parents[2]
#: Seconds a host may take to answer, for everyone.
CONNECT_TIMEOUT = 5


@dataclass(frozen=True)
class Peer:
    """One program: its argv for a lab, whether it is there, the goal for ours as a share of its time."""

    name: str
    program: str
    install: str
    argv: Sequence[str]
    goal: float | None = None


def peers(room: Lab, project: Path, curve: Path) -> list[Peer]:
    """Return ours first, then the others with their defaults and with curve25519."""
    hosts = ",".join(host.name for host in room.entries)
    names = project / "names"
    names.write_text("".join(f"{host.name}\n" for host in room.entries))
    clush = [
        sys.executable,
        "-m",
        "ClusterShell.CLI.Clush",
        "-S",
        "-f",
        "64",
        "-t",
        str(CONNECT_TIMEOUT),
        "-w",
        hosts,
    ]
    pssh = ["parallel-ssh", "-h", str(names), "-p", "64", "-t", "0", "-O", f"ConnectTimeout={CONNECT_TIMEOUT}"]
    default, quick = f"-F {room.ssh_config}", f"-F {curve}"
    pdsh = ["pdsh", "-R", "ssh", "-S", "-f", "64", "-w", hosts]
    ansible = ["ansible", "all", "-i", f"{hosts},", "-f", "64", "-m", "raw", "-a", "true", "-o"]
    inv = [sys.executable, "-m", "invoke", "run", "--hosts", "lab", "--connect-timeout", str(CONNECT_TIMEOUT)]
    return [
        Peer("Roomful (inv run)", "", "", [*inv, "--", "true"]),
        Peer("clush, defaults", "", "", [*clush, "-o", default, "true"], 0.30),
        Peer("clush, curve25519", "", "", [*clush, "-o", quick, "true"], 0.80),
        Peer("pssh, defaults", "parallel-ssh", "apt install pssh", [*pssh, "-x", default, "true"], 0.30),
        Peer("pssh, curve25519", "parallel-ssh", "apt install pssh", [*pssh, "-x", quick, "true"], 0.80),
        Peer(
            "pdsh, defaults",
            "pdsh",
            "apt install pdsh",
            ["env", f"PDSH_SSH_ARGS_APPEND={default}", *pdsh, "true"],
            0.30,
        ),
        Peer(
            "pdsh, curve25519",
            "pdsh",
            "apt install pdsh",
            ["env", f"PDSH_SSH_ARGS_APPEND={quick}", *pdsh, "true"],
            0.80,
        ),
        Peer("Ansible raw", "ansible", "pip install ansible-core", [*ansible, f"--ssh-common-args={default}"], 0.20),
    ]


def measure(peer: Peer, room: Lab, project: Path, rounds: int) -> tuple[float, int] | str:
    """Run a peer inside the lab's network; returns the median of the wall seconds and its last exit code."""
    if peer.program and not shutil.which(peer.program):
        return f"not installed ({peer.install})"
    argv = ["ip", "netns", "exec", str(room.netns), *peer.argv]
    environment = {**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "True", "ANSIBLE_SSH_CONTROL_PATH": "none"}
    seconds = []
    code = 0
    for _ in range(rounds):
        start = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=600,
            check=False,
        )
        seconds.append(time.monotonic() - start)
        code = done.returncode
    return statistics.median(seconds), code


def curve_config(room: Lab, project: Path) -> Path:
    """Write the lab's ssh_config once with curve25519 first and once without any choice of ours."""
    lines = [line for line in room.ssh_config.read_text().splitlines() if "KexAlgorithms" not in line]
    hosts = [f"Host {host.name}\n  HostName {host.attributes['address']}" for host in room.entries]
    curve = project / "curve_config"
    curve.write_text(f"KexAlgorithms {KEX_ALGORITHMS}\n" + "\n".join([*hosts, *lines]) + "\n")
    default = project / "default_config"
    default.write_text("\n".join([*hosts, *lines]) + "\n")
    return curve


def compare(title: str, room: Lab, project: Path, rounds: int) -> None:
    """Print one table: each peer's seconds, and ours as a ratio of them."""
    curve = curve_config(room, project)
    default = project / "default_config"
    ours = 0.0
    rows = []
    for peer in peers(room, project, curve):
        argv = [word.replace(str(room.ssh_config), str(default)) for word in peer.argv]
        result = measure(Peer(peer.name, peer.program, peer.install, argv, peer.goal), room, project, rounds)
        if isinstance(result, str):
            rows.append([peer.name, result, "", "", ""])
            continue
        seconds, code = result
        ours = ours or seconds
        goal = "" if peer.goal is None else f"<= {peer.goal:.2f}x"
        met = "" if peer.goal is None else ("yes" if ours <= peer.goal * seconds else "no")
        rows.append([peer.name, f"{seconds:.2f}", f"{ours / seconds:.2f}x", goal, met, code])
    print(f"\n{title} (median of {rounds})")
    print(table(rows, ["program", "seconds", "ours / its", "goal", "met", "exit code"]), flush=True)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="*", default=[64, 256], help="sizes of the lab")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run")
    options = parser.parse_args()
    for count in options.hosts:
        with tempfile.TemporaryDirectory(prefix="roomful-bench-") as folder:
            project = Path(folder)
            (project / "tasks.py").write_text(
                f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n"
            )
            room = lab.up(LabOptions(count=count, name=f"b{os.getpid()}"))
            try:
                write_host_list(project / "host_lists" / "lab.txt", room.entries)
                compare(f"{count} cold hosts", room, project, options.rounds)
                if count >= 256:
                    for host in room.entries[::10]:
                        lab.fail(room.name, host.name, "cut")
                    compare(f"{count} hosts, a tenth of them dead, {CONNECT_TIMEOUT} s to answer", room, project, 1)
            finally:
                lab.down(room.name)


if __name__ == "__main__":
    main()
