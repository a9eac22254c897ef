"""A lab host is a machine of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.lab import CHECKOUT, LabFactory, ssh
from tests.support.waiting import wait_until


@pytest.mark.root
def test_a_host_has_its_own_name_user_home_processes_and_folders(two: Lab) -> None:
    script = (
        "hostname; id -un; pwd; echo ~; ps -e -o pid= | wc -l; cat /proc/1/comm; ls -A ~ /tmp /run/user 2>&1;"
        " touch ~/mine /tmp/mine; sudo -n true 2>&1 || su -c true </dev/null 2>&1; command -v python3"
    )
    lines = ssh(two, "lab01", script).stdout.splitlines()
    assert lines[:4] == ["lab01", "student", "/home/student", "/home/student"]
    assert int(lines[4]) < 15
    assert lines[-1] == "/usr/bin/python3"
    other = ssh(two, "lab02", "hostname; ls -A ~ /tmp; test -e ~/mine && echo shared").stdout
    assert other.split()[0] == "lab02"
    assert "shared" not in other
    assert "mine" not in other


@pytest.mark.root
def test_a_host_sees_nothing_of_this_machine_that_a_real_one_would_not(two: Lab) -> None:
    folders = f"{CHECKOUT} /root /run/netns /run/roomful-labs"
    seen = ssh(two, "lab01", f"ls -A {folders}; getent passwd; ip route; ip -br addr")
    assert "pyproject.toml" not in seen.stdout
    assert "roomful-labs" not in seen.stdout
    assert "default" not in seen.stdout
    assert "eth0@if" in seen.stdout
    assert two.host("lab01").address in seen.stdout
    assert two.host("lab02").address not in seen.stdout
    ordinary = [line for line in seen.stdout.splitlines() if line.count(":") == 6 and not line.endswith("nologin")]
    assert [line.split(":")[0] for line in ordinary] == ["root", "student"]


@pytest.mark.root
def test_hosts_reach_each_other_and_the_controller_by_name_and_nobody_else(two: Lab) -> None:
    full_name = two.host("lab02").full_name
    program = f"""
import socket
for name in "lab02", "{full_name}", "controller", "192.0.2.1":
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect((name, 22))
        print(name, s.recv(4).decode())
    except OSError as error:
        print(name, error.strerror)
"""
    lines = ssh(two, "lab01", f"python3 -c '{program}'").stdout.splitlines()
    assert lines == [
        "lab02 SSH-",
        f"{full_name} SSH-",
        "controller Connection refused",
        "192.0.2.1 Network is unreachable",
    ]


@pytest.mark.root
def test_daemons_of_the_user_survive_the_login_and_are_reaped_when_they_end(two: Lab) -> None:
    pid = ssh(two, "lab01", "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!").stdout
    assert "sleep" in ssh(two, "lab01", "ps -e -o comm=").stdout
    ssh(two, "lab01", f"kill {pid}")
    wait_until(lambda: "sleep" not in ssh(two, "lab01", "ps -e -o comm=,stat=").stdout, 10)


@pytest.mark.root
def test_unix_sockets_can_be_forwarded_to_a_host(two: Lab, tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "here"))
    server.listen()
    argv = ["nsenter", f"--net=/run/netns/{two.netns}", "ssh", "-F", str(two.ssh_config)]
    argv += ["-o", "ExitOnForwardFailure=yes", "-N", "-R", f"/tmp/there:{tmp_path}/here", "lab01"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as forwarder:
        try:
            wait_until(lambda: ssh(two, "lab01", "test -S /tmp/there").returncode == 0, 10)
            program = "import socket; s = socket.socket(1); s.connect('/tmp/there'); print(s.recv(9).decode())"
            with subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{two.netns}", "ssh", "-F", str(two.ssh_config), "lab01",
                 f'python3 -c "{program}"'], stdout=subprocess.PIPE,
            ) as asking:  # fmt: skip
                server.settimeout(10)
                connection, _ = server.accept()
                connection.sendall(b"from afar")
                assert asking.communicate(timeout=10)[0] == b"from afar\n"
                connection.close()
        finally:
            forwarder.terminate()
    server.close()


@pytest.mark.root
def test_root_can_be_the_login_user_with_a_home_of_its_own(lab: LabFactory) -> None:
    found = lab(count=1, rootless=False, user="root")
    assert ssh(found, "lab01", "id -un; pwd; ls -A").stdout == "root\n/root\n"


@pytest.mark.root
def test_a_shared_home_is_one_for_all_and_tmp_is_not(lab: LabFactory) -> None:
    found = lab(count=2, rootless=False, shared_home=True)
    assert ssh(found, "lab01", "touch ~/ours /tmp/mine").returncode == 0
    assert ssh(found, "lab02", "ls ~ /tmp").stdout.split() == ["/home/student:", "ours", "/tmp:"]


@pytest.mark.root
def test_cpu_and_memory_limits_hold(lab: LabFactory) -> None:
    found = lab(count=2, rootless=False, cpus=0.2, memory=128 * 2**20)
    spin = "import time; t = time.monotonic(); c = time.process_time()\nwhile time.monotonic() < t + 1: pass\n"
    program = f"{spin}print(time.process_time() - c)"
    used = float(ssh(found, "lab01", f"python3 -c '{program}'").stdout)
    assert used < 0.4
    for size, status in (("20", "0"), ("300", "137")):
        # 137: the shell's word for a process that SIGKILL has ended.
        assert ssh(found, "lab02", f"python3 -c 'bytearray({size} << 20)'; echo $?").stdout == f"{status}\n"


@pytest.mark.root
def test_the_controllers_uplink_is_limited_each_way(lab: LabFactory) -> None:
    found = lab(count=2, rootless=False, uplink=20_000_000)
    inside = ["nsenter", f"--net=/run/netns/{found.netns}", "ssh", "-F", str(found.ssh_config)]
    data = os.urandom(3_000_000)
    for command, sent in (("cat >/dev/null", data), ("head -c 3000000 /dev/urandom", b"")):
        begin = time.monotonic()
        result = subprocess.run([*inside, "lab01", command], input=sent, capture_output=True, timeout=60, check=True)
        took = time.monotonic() - begin
        # 24 Mbit at 20 Mbit/s.
        assert took > 1.0, f"{len(result.stdout) or len(sent)} bytes took {took:.2f} s"
