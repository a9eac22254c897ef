"""Lab hosts break as asked, and mend."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest

from roomful import lab as labs
from roomful.errors import InputError
from roomful.lab import Lab, processes
from roomful.lab.netns import call_inside
from tests.support.lab import LabFactory, connect, ssh
from tests.support.waiting import wait_until


def talking(lab: Lab) -> list[str]:
    """An ssh command to lab01 that says something each second: only so it learns that the other has forgotten it."""
    alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=100"]
    return ["nsenter", f"--net=/run/netns/{lab.netns}", "ssh", "-F", str(lab.ssh_config), *alive, "lab01"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("how", "met"),
    [
        ("poweroff", "no answer"),
        ("cut", "no answer"),
        ("cut-in", "no answer"),
        ("cut-out", "no answer"),
        ("freeze", "silence"),
        ("sshd", "Connection refused"),
        ("hang", "silence"),
    ],
)
def test_a_host_fails_as_asked_its_neighbour_does_not_and_heal_undoes_it(two: Lab, how: str, met: str) -> None:
    assert connect(two, "lab01") == "SSH-"
    assert labs.fail(two.name, "lab01", how).faults == (how,)
    assert connect(two, "lab01") == met
    assert connect(two, "lab02") == "SSH-"
    assert labs.fail(two.name, "lab01", how).faults == (how,)
    assert labs.heal(two.name, "lab01").faults == ()
    assert ssh(two, "lab01", "hostname").stdout == "lab01\n"


@pytest.mark.root
def test_a_power_cut_is_silent_ends_everything_and_keeps_only_the_disk(two: Lab) -> None:
    ssh(two, "lab01", "echo kept > ~/kept; echo gone > /tmp/gone; echo kept > /var/tmp/kept")
    ssh(two, "lab01", "setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
    with subprocess.Popen([*talking(two), "sleep 1000"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as login:
        wait_until(lambda: "sleep" in ssh(two, "lab01", "ps -e -o args= | grep '^sleep 1000'").stdout, 10)
        labs.fail(two.name, "lab01", "poweroff")
        with pytest.raises(subprocess.TimeoutExpired):
            login.wait(timeout=1.5)
        assert processes.marked(two.host_directory("lab01")) == set()
        labs.heal(two.name, "lab01")
        # The host that came back has never heard of the old connection, and says so.
        assert login.wait(timeout=30) == 255
    lines = ssh(two, "lab01", "cat ~/kept /var/tmp/kept; ls -A /tmp; pgrep sleep").stdout
    assert lines == "kept\nkept\n"


@pytest.mark.root
def test_a_cut_host_goes_on_by_itself_and_its_logins_survive_the_cut(two: Lab) -> None:
    argv = ["nsenter", f"--net=/run/netns/{two.netns}", "ssh", "-F", str(two.ssh_config), "lab01"]
    with subprocess.Popen([*argv, "sleep 2; echo done | tee ~/done"], stdout=subprocess.PIPE) as login:
        wait_until(lambda: "sleep" in ssh(two, "lab01", "ps -e -o comm=").stdout, 10)
        labs.fail(two.name, "lab01", "cut")
        done = two.host_directory("lab01") / "disk" / "home" / "student" / "done"
        wait_until(done.exists, 10)
        assert login.poll() is None
        labs.heal(two.name, "lab01")
        assert login.communicate(timeout=30)[0] == b"done\n"


@pytest.mark.root
@pytest.mark.parametrize(("how", "heard"), [("cut-in", True), ("cut-out", False)])
def test_a_cut_can_be_one_way(two: Lab, how: str, heard: bool) -> None:
    """A host that shouts is heard by the controller where only its way in is cut."""

    def listen() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((two.controller_address, 9999))
            sock.settimeout(1.5)
            try:
                return sock.recv(100) == b"here"
            except TimeoutError:
                return False

    send = f"s.sendto(b'here', ('{two.controller_address}', 9999))"
    shout = f"import socket, time; s = socket.socket(2, 2)\nwhile 1: {send}; time.sleep(.1)"
    ssh(two, "lab01", f'setsid timeout 20 python3 -c "{shout}" </dev/null >/dev/null 2>&1 &')
    wait_until(lambda: call_inside(two.netns, listen), 10)
    labs.fail(two.name, "lab01", how)
    if not heard:
        call_inside(two.netns, listen)  # what was on its way
    assert call_inside(two.netns, listen) is heard
    labs.heal(two.name, "lab01")
    ssh(two, "lab01", "pkill python3")


@pytest.mark.root
def test_a_frozen_host_goes_on_where_it_stopped(two: Lab) -> None:
    counter = "n=0; while :; do n=$((n+1)); echo $n > ~/n; sleep 0.05; done"
    ssh(two, "lab01", f"setsid timeout 30 sh -c '{counter}' </dev/null >/dev/null 2>&1 &")
    file = two.host_directory("lab01") / "disk" / "home" / "student" / "n"

    def count() -> int:
        return int(file.read_text() or 0) if file.exists() else 0

    wait_until(lambda: count() > 2, 10)
    labs.fail(two.name, "lab01", "freeze")
    before = count()
    time.sleep(0.4)
    assert count() == before
    labs.heal(two.name, "lab01")
    wait_until(lambda: count() > before, 10)
    ssh(two, "lab01", "pkill timeout")


@pytest.mark.root
def test_a_frozen_host_can_lose_its_power(two: Lab) -> None:
    labs.fail(two.name, "lab01", "freeze")
    assert labs.fail(two.name, "lab01", "poweroff").faults == ("poweroff",)
    assert processes.marked(two.host_directory("lab01")) == set()


@pytest.mark.root
def test_killing_only_sshd_leaves_logins_and_daemons_alone(two: Lab) -> None:
    ssh(two, "lab01", "setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
    labs.fail(two.name, "lab01", "sshd")
    labs.heal(two.name, "lab01")
    assert ssh(two, "lab01", "pgrep -c sleep; pkill sleep").stdout == "1\n"


@pytest.mark.root
def test_a_full_disk_takes_nothing_until_it_is_mended(two: Lab) -> None:
    labs.fail(two.name, "lab01", "disk-full")
    for folder in ("~", "/tmp", "/var/tmp"):
        assert "No space left" in ssh(two, "lab01", f"echo x > {folder}/x").stderr
    assert ssh(two, "lab02", "echo x > ~/x").returncode == 0
    labs.heal(two.name, "lab01")
    assert ssh(two, "lab01", "echo x > ~/x; echo x > /tmp/x").returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("ended_by", ["heal", "poweroff"])
def test_a_home_can_hang_and_frees_its_waiters_when_it_ends(two: Lab, ended_by: str) -> None:
    labs.fail(two.name, "lab01", "hang-home")
    with subprocess.Popen([*talking(two), "ls /home/student"], stdin=subprocess.DEVNULL) as looking:
        with pytest.raises(subprocess.TimeoutExpired):
            looking.wait(timeout=1)
        if ended_by == "poweroff":
            assert labs.fail(two.name, "lab01", "poweroff").faults == ("poweroff",)
            assert processes.marked(two.host_directory("lab01")) == set()
            # sshd had not even read the key yet: the client waits for ever.
            looking.kill()
        labs.heal(two.name, "lab01")
        assert looking.wait(timeout=30) == {"heal": 0, "poweroff": -signal.SIGKILL}[ended_by]
    assert ssh(two, "lab01", "cd ~ && pwd").stdout == "/home/student\n"


@pytest.mark.root
def test_a_disk_without_a_size_is_never_filled(lab: LabFactory) -> None:
    found = lab(count=1, rootless=False, user="root")
    with pytest.raises(InputError, match="--disk 64MB"):
        labs.fail(found.name, "lab01", "disk-full")
    assert labs.get(found.name).host("lab01").faults == ()


@pytest.mark.root
def test_hosts_can_start_off_or_refuse_the_key(lab: LabFactory) -> None:
    found = lab(count=3, rootless=False, off=("lab01",), refuse_key=("lab02",))
    assert connect(found, "lab01", 0.5) in ("no answer", "No route to host")
    assert "Permission denied (publickey)" in ssh(found, "lab02", "true").stderr
    assert ssh(found, "lab03", "true").returncode == 0
    labs.heal(found.name, "lab01")
    labs.heal(found.name, "lab02")
    assert [ssh(found, host, "true").returncode for host in ("lab01", "lab02")] == [0, 0]


@pytest.mark.parametrize("rootless", [pytest.param(False, marks=pytest.mark.root), True])
def test_a_new_host_key_is_noticed_and_heal_brings_the_old_one_back(lab: LabFactory, rootless: bool) -> None:
    found = lab(count=2, rootless=False, disk=32 * 2**20) if not rootless else lab(count=3, rootless=True)
    labs.fail(found.name, "lab01", "host-key")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ssh(found, "lab01", "true").stderr
    labs.heal(found.name, "lab01")
    assert ssh(found, "lab01", "true").returncode == 0


@pytest.mark.parametrize("rootless", [pytest.param(False, marks=pytest.mark.root), True])
def test_a_host_that_died_by_itself_can_be_mended(lab: LabFactory, rootless: bool) -> None:
    found = lab(count=3, rootless=True) if rootless else lab(count=2, rootless=False, disk=32 * 2**20)
    folder = found.host_directory("lab02")
    (init,) = processes.inits(folder)
    os.kill(init, signal.SIGKILL)
    wait_until(lambda: not processes.alive(init), 5)
    assert labs.heal(found.name, "lab02").faults == ()
    assert ssh(found, "lab02", "hostname").stdout == "lab02\n"
    assert len(processes.inits(folder)) == 1
