"""Labs come up, stand side by side, and leave nothing behind, whenever what makes them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.errors import InputError, RoomfulError
from roomful.lab import Lab, LabOptions, network
from tests.support.lab import CHECKOUT, LabFactory, python, ssh, traces
from tests.support.waiting import wait_until


def test_up_twice_is_once_and_other_options_are_refused(lab: LabFactory) -> None:
    found = lab(count=3, rootless=True)
    again = labs.up(LabOptions(name=found.name, count=3, rootless=True))
    assert (again.directory, again.port, again.fresh) == (found.directory, found.port, False)
    with pytest.raises(InputError, match="is up with another count"):
        labs.up(LabOptions(name=found.name, count=2, rootless=True))
    assert ssh(found, "lab03", "true").returncode == 0


@pytest.mark.root
def test_labs_of_several_names_stand_side_by_side(lab: LabFactory, two: Lab, rootless_lab: Lab) -> None:
    other = lab(count=1, rootless=False, own="another")
    assert not other.network.overlaps(two.network)
    assert {other.name, two.name, rootless_lab.name} <= {found.name for found in labs.labs()}
    for found in (other, two, rootless_lab):
        assert labs.find_by_network(found.subnet) == labs.get(found.name)
    labs.down(other.name)
    assert traces(other.name) == []
    assert ssh(two, "lab01", "hostname").stdout == "lab01\n"
    assert labs.find_by_network(other.subnet) is None


@pytest.mark.root
def test_a_large_lab_is_up_in_time(tmp_path: Path) -> None:
    name = f"big{os.getpid()}"
    begin = time.monotonic()
    try:
        found = labs.up(LabOptions(name=name, count=64))
        took = time.monotonic() - begin
        assert len(found.hosts) == 64
        # The promise is for a machine of its own; other files' tests run beside this one in the whole suite.
        assert took < (40 if "PYTEST_XDIST_WORKER" in os.environ else 10)
        assert ssh(found, "lab64", "hostname").stdout == "lab64\n"
    finally:
        labs.down(name)
    assert traces(name) == []


@pytest.mark.root
def test_down_ends_what_runs_in_the_controllers_network(lab: LabFactory) -> None:
    found = lab(count=1, rootless=False, own="ended")
    argv = ["nsenter", f"--net=/run/netns/{found.netns}", "sleep", "1000"]
    with subprocess.Popen(argv) as left_behind:
        wait_until(lambda: left_behind.pid in network.processes(found.name), 5)
        assert labs.down(found.name)
        assert left_behind.wait(timeout=5) == -signal.SIGTERM
    assert labs.down(found.name) is False


#: Kills itself at the Nth event of those that change something; prints how many there are when it is not killed.
KILLED_AT = """
import os, signal, sys
name, action, at, rootless = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "rootless"
from roomful import lab
changing = {"subprocess.Popen", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.kill", "os.chmod",
            "ctypes.dlsym", "socket.connect", "fcntl.flock"}
seen = 0
def count(event, arguments):
    global seen
    if event in changing or event == "open" and arguments[1] and set(str(arguments[1])) & set("wax"):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
if action == "up":
    all_there_is = dict(disk=2**24, cpus=0.5, uplink=10**8, shared_home=True)
    options = dict(rootless=rootless, off=("lab02",), host_list=sys.argv[5], **({} if rootless else all_there_is))
    lab.up(lab.LabOptions(name=name, count=2, **options))
else:
    lab.down(name)
print(seen)
"""


@pytest.mark.parametrize("kind", ["rootless", pytest.param("namespaces", marks=pytest.mark.root)])
def test_a_killed_start_or_stop_leaves_nothing_after_the_next_stop(kind: str, tmp_path: Path) -> None:
    name = f"k{os.getpid()}"
    arguments = (kind, str(tmp_path / f"{name}.txt"))
    try:
        steps = {}
        for action in ("up", "down"):
            whole = python(KILLED_AT, name, action, "0", *arguments)
            assert whole.returncode == 0, whole.stderr
            steps[action] = int(whole.stdout)
        assert traces(name) == []
        for action in ("up", "down"):
            for part in range(6):
                at = 1 + part * (steps[action] - 1) // 5
                if action == "down":
                    assert python(KILLED_AT, name, "up", "0", *arguments).returncode == 0
                killed = python(KILLED_AT, name, action, str(at), *arguments)
                assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
                labs.down(name)
                assert traces(name) == [], f"{action} killed at step {at} of {steps[action]}"
                assert list(tmp_path.iterdir()) == []
        # And the next start does not mind either.
        killed = python(KILLED_AT, name, "up", str(steps["up"] // 2), *arguments)
        assert killed.returncode == -signal.SIGKILL
        again = python(KILLED_AT, name, "up", "0", *arguments)
        assert again.returncode == 0, again.stderr
        assert ssh(labs.get(name), "lab01", "hostname").stdout == "lab01\n"
    finally:
        labs.down(name)
    assert traces(name) == []


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"f{os.getpid()}"

    def broken(*_: object) -> str:
        return "NoSuchOption yes\n"

    monkeypatch.setattr("roomful.lab.sshd.rootless_config", broken)
    monkeypatch.setattr("roomful.lab.machines.BOOT_SECONDS", 0.5)
    with pytest.raises(RoomfulError, match=r"lab01: no SSH server answers.*NoSuchOption"):
        labs.up(LabOptions(name=name, count=1, rootless=True))
    assert traces(name) == []


def test_nothing_touches_the_users_ssh_folder(tmp_path: Path) -> None:
    import pwd

    home = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
    (tmp_path / ".ssh").mkdir()

    def look() -> list[object]:
        return [
            (path, path.stat().st_mtime_ns)
            for folder in (home, tmp_path / ".ssh")
            if folder.exists()
            for path in (folder, *folder.iterdir())
        ]

    before = look()
    name = f"s{os.getpid()}"
    program = (
        "import sys, subprocess; from roomful import lab\n"
        "found = lab.up(lab.LabOptions(name=sys.argv[1], count=1, rootless=True))\n"
        "subprocess.run(['ssh', '-F', found.ssh_config, 'lab01', 'true'], check=True)\n"
        "lab.down(sys.argv[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program, name], env=environment, timeout=60, check=True)
    assert look() == before
