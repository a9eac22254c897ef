"""Fan-out of ``true`` to cold hosts: Roomful beside clush, pssh, pdsh, asyncssh and Ansible, in one lab, in one run.

Needs root (it makes a lab in namespaces). Peers that are not installed are named with the command that adds them;
asyncssh may be with any ``python3`` on PATH.

    inv dev.bench fanout                    64 and 256 hosts, then 256 with a tenth of them dead
    inv dev.bench fanout -- --hosts 64      only that size
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roomful import lab
from roomful.hosts import Host, write_host_list
from roomful.lab import Lab, LabOptions
from roomful.openssh import KEX_ALGORITHMS
from roomful.report import table

ROOT = Path(__file__).parents[2]
#: Seconds a host may take to answer, for everyone.
CONNECT_TIMEOUT = 5
#: With dead hosts, ours may take so many seconds more than that.
DEAD_ALLOWANCE = 1.0
#: Lines of the large known_hosts file, and the seconds that it may add for the whole group.
KNOWN_LINES = 5000
KNOWN_ALLOWANCE = 0.3
#: What an asyncssh program for this looks like: all hosts at once, host keys checked.
ASYNCSSH = """\
import asyncio, sys, asyncssh
async def one(host):
    options = {"config": [sys.argv[1]], "connect_timeout": float(sys.argv[2])}
    async with asyncssh.connect(host, **options) as connection:
        return await connection.run("true", check=True)
async def main():
    hosts = open(sys.argv[3]).read().split()
    ended = await asyncio.gather(*map(one, hosts), return_exceptions=True)
    return sum(isinstance(one, BaseException) for one in ended)
sys.exit(1 if asyncio.run(main()) else 0)
"""


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
    python = python_with("asyncssh")
    asyncssh = [python, "-c", ASYNCSSH, str(room.ssh_config), str(CONNECT_TIMEOUT), str(names)]
    return [
        Peer("Roomful (inv run)", "", "", inv_argv("lab")),
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
        Peer("asyncssh", python, "pip install asyncssh", asyncssh),
    ]


def inv_argv(hosts: str) -> list[str]:
    """Return the call of ours for a host list."""
    inv = [sys.executable, "-m", "invoke", "run", "--hosts", hosts, "--connect-timeout", str(CONNECT_TIMEOUT)]
    return [*inv, "--", "true"]


def measure(peer: Peer, room: Lab, project: Path, rounds: int) -> tuple[float, int] | str:
    """Run a peer inside the lab's network; returns the median of the wall seconds and its last exit code."""
    if peer.install and not (peer.program and shutil.which(peer.program)):
        return f"not installed ({peer.install})"
    argv = ["ip", "netns", "exec", str(room.netns), *peer.argv]
    environment = {**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "True", "ANSIBLE_SSH_CONTROL_PATH": "none"}
    # Everybody's Python programs run from bytecode, as they do where they are in use.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
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


def python_with(module: str) -> str:
    """Return the first ``python3`` on PATH that has a module, else ""; the first of all is ours."""
    for folder in os.get_exec_path():
        python = str(Path(folder) / "python3")
        argv = [python, "-c", f"import {module}"]
        if os.access(python, os.X_OK) and subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            return python
    return ""


def curve_config(room: Lab, project: Path) -> Path:
    """Write the lab's ssh_config once with curve25519 first and once without any choice of ours."""
    lines = [line for line in room.ssh_config.read_text().splitlines() if "KexAlgorithms" not in line]
    hosts = [f"Host {host.name}\n  HostName {host.attributes['address']}" for host in room.entries]
    curve = project / "curve_config"
    curve.write_text(f"KexAlgorithms {KEX_ALGORITHMS}\n" + "\n".join([*hosts, *lines]) + "\n")
    default = project / "default_config"
    default.write_text("\n".join([*hosts, *lines]) + "\n")
    return curve


def compare(title: str, room: Lab, project: Path, rounds: int, limit: float | None = None) -> None:
    """Print one table: each peer's seconds, and ours as a ratio of them.

    With a ``limit`` in seconds that is ours to keep, and the ratios are only told.
    """
    curve = curve_config(room, project)
    default = project / "default_config"
    ours = 0.0
    rows = []
    for peer in peers(room, project, curve):
        argv = [word.replace(str(room.ssh_config), str(default)) for word in peer.argv]
        result = measure(replace(peer, argv=argv), room, project, rounds)
        if isinstance(result, str):
            rows.append([peer.name, result, "", "", "", ""])
            continue
        seconds, code = result
        goal, met = "", ""
        if limit is not None and not ours:
            goal, met = f"<= {limit:.1f} s", yes(seconds <= limit)
        ours = ours or seconds
        if limit is None and peer.goal is not None:
            goal, met = f"<= {peer.goal:.2f}x", yes(ours <= peer.goal * seconds)
        rows.append([peer.name, f"{seconds:.2f}", f"{ours / seconds:.2f}x", goal, met, code])
    print(f"\n{title} (median of {rounds})")
    print(table(rows, ["program", "seconds", "ours / its", "goal", "met", "exit code"]), flush=True)


def yes(met: bool) -> str:
    """Say whether a goal is met."""
    return "yes" if met else "no"


def hashed_known_hosts(room: Lab, project: Path) -> None:
    """Write the host list ``hashed``: the same hosts, known at the end of a large file of hashed names."""
    known = project / "hashed_known_hosts"
    head = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32)
    mine = room.known_hosts.read_text()
    with known.open("w") as file:
        for number in range(KNOWN_LINES - mine.count("\n")):
            file.write(f"other{number} ssh-ed25519 {base64.b64encode(head + os.urandom(32)).decode()}\n")
        file.write(mine)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], capture_output=True, check=True)
    config = project / "hashed_config"
    lines = [line for line in room.ssh_config.read_text().splitlines() if "UserKnownHostsFile" not in line]
    config.write_text(f"UserKnownHostsFile {known}\n" + "\n".join(lines) + "\n")
    hosts = [replace(host, attributes={**host.attributes, "ssh_config": str(config)}) for host in room.entries]
    write_host_list(project / "host_lists" / "hashed.txt", hosts)


def compare_known_hosts(room: Lab, project: Path, rounds: int) -> None:
    """Print what a large file of hashed names costs ours, beside the lab's own small one."""
    hashed_known_hosts(room, project)
    found = [
        measure(Peer(name, "", "", inv_argv(name)), room, project, rounds)
        for _ in range(2)
        for name in ("lab", "hashed")
    ]
    seconds = [each[0] for each in found if not isinstance(each, str)]
    small, large = min(seconds[::2]), min(seconds[1::2])
    added = large - small
    rows = [
        ["the lab's own", f"{small:.2f}", "", "", ""],
        [
            f"{KNOWN_LINES} hashed",
            f"{large:.2f}",
            f"{added:+.2f}",
            f"< {KNOWN_ALLOWANCE:.1f}",
            yes(added < KNOWN_ALLOWANCE),
        ],
    ]
    print(f"\n{len(room.entries)} hosts, what known_hosts costs (better of 2 medians of {rounds})")
    print(table(rows, ["known_hosts", "seconds", "added", "goal", "met"]), flush=True)


def swallow(room: Lab, host: Host) -> None:
    """Let all that is sent to a host vanish, as behind a router.

    On its own network its neighbours would soon find that nobody answers for its address ("no route").
    """
    lab.fail(room.name, host.name, "cut")
    ip = ["ip", "-n", str(room.netns)]
    address = host.attributes["address"]
    route = subprocess.run([*ip, "-o", "route", "get", address], capture_output=True, text=True, check=True).stdout
    device = route.split(" dev ")[1].split()[0]
    neighbour = ["neigh", "replace", address, "lladdr", "02:00:00:00:00:01", "dev", device, "nud", "permanent"]
    subprocess.run([*ip, *neighbour], check=True)


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
                compare_known_hosts(room, project, options.rounds)
                if count >= 256:
                    for host in room.entries[::10]:
                        swallow(room, host)
                    title = f"{count} hosts, a tenth of them dead, {CONNECT_TIMEOUT} s to answer"
                    compare(title, room, project, 1, CONNECT_TIMEOUT + DEAD_ALLOWANCE)
            finally:
                lab.down(room.name)


if __name__ == "__main__":
    main()
