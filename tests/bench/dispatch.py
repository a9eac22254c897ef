"""dsh: one dispatch beside OpenSSH over a warm ControlMaster, a burst's shares, and the seed's compile; in one run.

The compile is dsh 0.1.3's experiment: a C program of many files, with ``make`` alone on one machine and with
``make -jN CC="dsh gcc"``, here over lab hosts that have a quarter of a CPU each. Needs root, a C compiler and make.

    inv dev.bench dispatch
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from roomful import lab
from roomful.dispatch.client import client_argv
from roomful.dispatch.control import Control, Wish, ask
from roomful.hosts import Host, resolve, write_host_list
from roomful.lab import Lab, LabOptions, kernel
from roomful.report import table
from roomful.settings import Settings
from tests.support.dispatcher import install, pretend_load

#: The goals: times ssh's time; times the equal share; share of linear speed-up.
GOAL_RATIO, GOAL_SHARE, GOAL_SPEEDUP = 2.5, 1.3, 0.8
BURST = 200
CPUS = 0.25
HOMES = Path("/home")

#: What Andre Fachat measured in 1998: kernel, machines of 10 MBit Ethernet, an NFS server. Minutes and seconds.
SEED = (("make", "5m47"), ("dsh, make -j2", "8m38"), ("dsh, make -j4", "5m44"), ("dsh, make -j8", "4m37 and 4m48"))


@dataclass
class Bench:
    """What has been measured so far, and where."""

    room: Lab
    project: Path
    programs: Path
    rows: list[list[str]] = field(default_factory=list)
    missed: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with dsh on the PATH."""
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}", "ROOMFUL_PROJECT": str(self.project)}

    def note(self, name: str, measured: str, goal: str = "", met: bool | None = None) -> None:
        """Add a line to the table."""
        verdict = "" if met is None else ("met" if met else "MISSED")
        self.missed += met is False
        self.rows.append([name, measured, goal, verdict])
        print(f"{name}: {measured} {goal} {verdict}", file=sys.stderr, flush=True)

    def dispatcher(self, hosts: tuple[Host, ...]) -> Path:
        """Start a dispatcher, make it dsh's, and wait until all hosts have reported."""
        known = {"ssh_config": str(self.room.ssh_config), "known_hosts": str(self.room.known_hosts)}
        control = Control(Settings(root=self.project, hosts="lab", **known))
        path = control.ensure(Wish(hosts))
        control.remember(path, {"hosts": ",".join(host.label for host in hosts)})
        while any(row["load"] is None for row in ask(path, b"load")):
            time.sleep(0.1)
        return path

    def stop(self) -> None:
        """End all dispatchers."""
        Control(Settings(root=self.project)).stop()


def share_home(room: Lab) -> None:
    """Have the hosts' shared home here too, at the same place, as with NFS; only we and our children see it."""
    if any(HOMES in Path(path).resolve().parents for path in (__file__, sys.executable)):
        raise SystemExit(f"the lab's {HOMES} would hide this checkout and its Python; run this from one elsewhere")
    kernel.mount(str(room.directory / "shared" / "home"), HOMES, flags=kernel.MS_BIND)


def spawn(argv: list[str], environment: dict[str, str]) -> float:
    """Run a program as cheaply as Python can; returns the wall seconds."""
    begin = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(argv[0], argv, environment, file_actions=silent)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, argv
    return time.perf_counter() - begin


def one_dispatch(bench: Bench, hosts: tuple[Host, ...], rounds: int) -> None:
    """``dsh true`` beside ``ssh HOST true`` over a warm master, taken in turns."""
    bench.dispatcher(hosts[:1])
    ssh = ["/usr/bin/ssh", "-F", str(bench.room.ssh_config), "-o", f"ControlPath={bench.project}/cm"]
    first = [*ssh, "-o", "ControlMaster=yes", "-o", "ControlPersist=300", hosts[0].name, "true"]
    subprocess.run(first, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    python = str(bench.programs / "python3")
    peers = {
        "ssh true, warm ControlMaster": [*ssh, hosts[0].name, "true"],
        "dsh true": [str(bench.programs / "dsh"), "true"],
        "of it: sh": ["/bin/sh", "-c", ":"],
        "of it: Python's start": [python, "-E", "-S", "-P", "-c", "0"],
        "dsh --help: all but the dispatch": [str(bench.programs / "dsh"), "--help"],
        "without sh: python3 -I -S, true": [python, *client_argv("true")[1:]],
    }
    environment = {**bench.environment, "PWD": "/"}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, argv in peers.items():
            times[name].append(spawn(argv, environment))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    for name, median in medians.items():
        bench.note(name, f"{median * 1e3:.2f} ms")
    ratio = medians["dsh true"] / medians["ssh true, warm ControlMaster"]
    bench.note("dsh / ssh", f"{ratio:.2f}x", f"<= {GOAL_RATIO}x", ratio <= GOAL_RATIO)
    subprocess.run([*ssh, "-O", "exit", hosts[0].name], capture_output=True, check=False)
    bench.stop()


def at_once(bench: Bench, command: list[str]) -> tuple[Counter[str], float]:
    """Dispatch many commands at once; returns how many each host got, and the wall seconds."""
    argv = [str(bench.programs / "dsh"), "-n", "-v", *command]
    begin = time.perf_counter()
    running = [
        subprocess.Popen(argv, cwd="/", env=bench.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(BURST)
    ]
    said = [process.communicate()[1].decode().split() for process in running]
    seconds = time.perf_counter() - begin
    assert all(process.returncode == 0 for process in running), said
    return Counter(words[-1] for words in said), seconds


def burst(bench: Bench, hosts: tuple[Host, ...], command: list[str]) -> None:
    """Look at the greatest share that an equal host gets."""
    bench.dispatcher(hosts)
    shares, seconds = at_once(bench, command)
    bench.stop()
    greatest = max(shares.values()) / (BURST / len(hosts))
    name = f"{BURST} at once over {len(hosts)} hosts: {' '.join(command)}"
    measured = f"greatest share {greatest:.2f}x, {seconds:.1f} s"
    bench.note(name, measured, f"<= {GOAL_SHARE}x", greatest <= GOAL_SHARE)


def weighted_burst(bench: Bench, hosts: tuple[Host, ...]) -> None:
    """Look at the shares of two idle hosts with the load weights 1 and 2."""
    first, second = hosts[0], dataclasses.replace(hosts[1], load_weight=2.0)
    path = bench.dispatcher((first, second))
    for host in (first, second):
        # All hosts of a lab have one kernel, and so one load average: that of this machine at work.
        pretend_load([str(bench.programs / "dsh")], bench.environment, host.name, 0.0)
    while any(row["load"] for row in ask(path, b"load")):
        time.sleep(0.1)
    shares, _ = at_once(bench, ["sleep", "8"])
    bench.stop()
    ratio = shares[first.label] / shares[second.label]
    bench.note(f"{BURST} at once, weights 1 and 2", f"{ratio:.2f} : 1", "2 : 1 within 10 %", 1.8 <= ratio <= 2.2)


def write_program(folder: Path, files: int) -> None:
    """Write a C program that takes a compiler some work, its Makefile included."""
    folder.mkdir()
    names = []
    for number in range(files):
        functions = "\n".join(
            f"static double g{number}_{i}(double x) {{ double s = {i}; for (int k = 0; k < 64; k++)"
            f" {{ s += sin(x * k + {i}) * (k % {i % 7 + 2}); if (s > 1e{i % 5 + 2}) s = -s / 3; }} return s; }}"
            for i in range(110)
        )
        calls = " + ".join(f"g{number}_{i}(x)" for i in range(110))
        text = f"#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n{functions}\n"
        (folder / f"part{number:02}.c").write_text(f"{text}double part{number}(double x) {{ return {calls}; }}\n")
        names.append(f"part{number:02}.o")
    declared = "\n".join(f"double part{number}(double);" for number in range(files))
    total = " + ".join(f"part{number}(1.5)" for number in range(files))
    main = f'#include <stdio.h>\n{declared}\nint main(void) {{ printf("%f\\n", {total}); return 0; }}\n'
    (folder / "main.c").write_text(main)
    objects = " ".join(["main.o", *names])
    (folder / "Makefile").write_text(
        f"CFLAGS = -O2\nOBJECTS = {objects}\nobjects: $(OBJECTS)\nclean:\n\trm -f $(OBJECTS)\n"
    )


def digest(folder: Path) -> str:
    """The content of all object files as one number."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.o")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def make(bench: Bench, folder: Path, *words: str) -> tuple[float, str]:
    """Clean, then make the object files; returns the wall seconds and what they contain."""
    subprocess.run(["make", "-s", "clean"], cwd=folder, check=True)
    begin = time.perf_counter()
    subprocess.run(["make", "-s", *words], cwd=folder, env=bench.environment, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin, digest(folder)


def compile_program(bench: Bench, hosts: tuple[Host, ...], files: int) -> None:
    """Repeat the seed's experiment."""
    folder = HOMES / bench.room.user / "program"
    write_program(folder, files)
    home = folder.parent.stat()
    for path in (folder, *folder.iterdir()):
        os.chown(path, home.st_uid, home.st_gid)
    _, expected = make(bench, folder, "-j2")
    # "make alone" runs where the hosts' limit holds too: on one of them, as one command.
    bench.dispatcher(hosts[:1])
    subprocess.run(["make", "-s", "clean"], cwd=folder, check=True)
    begin = time.perf_counter()
    argv = [str(bench.programs / "dsh"), "make", "-s"]
    subprocess.run(argv, cwd=folder, env=bench.environment, stdin=subprocess.DEVNULL, check=True)
    alone, same = time.perf_counter() - begin, digest(folder) == expected
    bench.stop()
    bench.note(f"{files + 1} files, make alone on one host", f"{alone:.1f} s", "same objects", same)
    for count in (1, 2, 4):
        bench.dispatcher(hosts[:count])
        seconds, content = make(bench, folder, f"-j{2 * count}", "CC=dsh gcc")
        bench.stop()
        share = alone / seconds / count
        name = f'make -j{2 * count} CC="dsh gcc", {count} host{"s" if count > 1 else ""}'
        measured = f"{seconds:.1f} s, {alone / seconds:.2f}x as fast, {share:.2f} of linear"
        same = content == expected
        bench.note(name, measured, f">= {GOAL_SPEEDUP}, same objects", same and share >= GOAL_SPEEDUP)
    for name, minutes in SEED:
        bench.note(f"the seed's kernel, 1998: {name}", minutes)


def run(room: Lab, folder: Path, options: argparse.Namespace) -> int:
    """Measure everything and print the table; returns the exit code."""
    write_host_list(folder / "host_lists" / "lab.txt", room.entries)
    hosts = resolve("lab", Settings(root=folder))
    bench = Bench(room, folder, install(folder / "python"))
    os.chdir("/")
    try:
        if options.rounds:
            one_dispatch(bench, hosts, options.rounds)
        if options.burst:
            burst(bench, hosts, ["true"])
            burst(bench, hosts, ["sleep", "5"])
            weighted_burst(bench, hosts)
        if options.files:
            compile_program(bench, hosts, options.files)
    finally:
        bench.stop()
    print(table(bench.rows, ["what", "measured", "goal", ""]))
    return 1 if bench.missed else 0


def main() -> int:
    """Bring a lab up, measure in it, take it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--files", type=int, default=60)
    options = parser.parse_args()
    name = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        for wanted, cpus, parts in (
            (8, None, {"files": 0}),
            (4, CPUS, {"rounds": 0, "burst": 0}),
        ):
            chosen = argparse.Namespace(**{**vars(options), **parts})
            if not (chosen.rounds or chosen.burst or chosen.files):
                continue
            limits = {"cpus": cpus} if cpus else {}
            room = lab.up(LabOptions(name=name, count=wanted, rootless=False, shared_home=True, **limits))
            try:
                # A child enters the lab's network, so that this process can take the lab down.
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        if room.netns:
                            lab.enter(room.netns)
                            share_home(room)
                        place = Path(folder) / str(wanted)
                        code = run(room, place, chosen)
                        sys.stdout.flush()
                    except BaseException:
                        traceback.print_exc()
                    finally:
                        os._exit(code)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            finally:
                lab.down(name)
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
