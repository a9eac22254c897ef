"""A process enters a lab's network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.errors import RoomfulError
from roomful.lab import Lab, processes
from tests.support.lab import CHECKOUT, LabFactory, python, traces


@pytest.mark.root
def test_a_process_can_enter_the_labs_network_and_finds_names_both_ways(two: Lab) -> None:
    program = """
import os, socket, subprocess, sys, threading
from roomful import lab
netns, full_name = sys.argv[1:]
print(lab.inside(netns))
stop = threading.Event(); thread = threading.Thread(target=stop.wait, name="busy"); thread.start()
try: lab.enter(netns)
except Exception as error: print(error)
stop.set(); thread.join()
lab.enter(netns)
before = os.stat("/proc/self/ns/mnt").st_ino
lab.enter(netns)
print(lab.inside(netns), os.stat("/proc/self/ns/mnt").st_ino == before)
address = socket.gethostbyname(full_name)
print(address, socket.gethostbyname("lab02"), socket.gethostbyaddr(address)[0])
print(subprocess.run(["ssh-keyscan", "-T", "3", full_name], capture_output=True, text=True).stdout.split()[1])
print(lab.fail(netns[3:], "lab02", "cut").faults, lab.heal(netns[3:], "lab02").faults)
try: lab.up(lab.LabOptions(name="nested", count=1))
except Exception as error: print(error)
"""
    host = two.host("lab02")
    result = python(program, str(two.netns), host.full_name)
    assert result.stdout.splitlines() == [
        "False",
        f"cannot enter the lab's network '{two.netns}': more than one thread runs: MainThread, busy",
        "True True",
        f"{host.address} {host.address} {host.full_name}",
        "ssh-ed25519",
        "('cut',) ()",
        f"this process is inside the lab '{two.name}'; call inv lab.up by itself, before the other tasks",
    ], result.stderr
    # What was mounted for that process was mounted for nobody else.
    assert host.full_name not in Path("/etc/hosts").read_text()
    assert traces("nested") == []


@pytest.mark.root
def test_a_process_inside_another_lab_does_not_keep_a_lab_alive(lab: LabFactory, two: Lab) -> None:
    other = lab(count=1, rootless=False, own="kept alive")
    # Whoever starts now has a copy of all that is mounted, the other lab's network among it.
    labs.fail(two.name, "lab01", "poweroff")
    labs.heal(two.name, "lab01")
    inode = os.stat(f"/run/netns/{other.netns}").st_ino
    program = "import sys; from roomful import lab; lab.enter(sys.argv[1]); print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(two.netns)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as inside:  # fmt: skip
        assert inside.stdout is not None
        assert inside.stdout.readline() == b"in\n"
        pids = {inside.pid, *processes.inits(two.directory)}
        assert len(pids) == 3

        def holders() -> list[int]:
            return [pid for pid in pids if f"net:[{inode}]" in Path(f"/proc/{pid}/mountinfo").read_text()]

        assert len(holders()) >= 2
        labs.down(other.name)
        assert holders() == []
        inside.communicate(timeout=10)


def test_entering_what_is_not_there_is_an_error_in_one_line() -> None:
    with pytest.raises(RoomfulError, match=r"no lab network 'rf-nowhere'|only root can"):
        labs.enter("rf-nowhere")


@pytest.mark.root
def test_a_lab_can_be_taken_down_from_inside(lab: LabFactory) -> None:
    """As in one call of inv that chains lab.up, steps, and lab.down."""
    found = lab(count=1, rootless=False, disk=16 * 2**20, own="from inside")
    program = "import sys; from roomful import lab; lab.enter('rf-' + sys.argv[1]); print(lab.down(sys.argv[1]))"
    result = python(program, found.name)
    assert result.stdout == "True\n", result.stderr
    assert traces(found.name) == []
