"""Labs without root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.errors import InputError
from roomful.lab import Lab, processes
from tests.support.lab import CHECKOUT, LabFactory, connect, ssh


def test_a_rootless_host_has_its_own_home_name_and_clean_environment(lab: LabFactory) -> None:
    rootless_lab = lab(count=2, rootless=True, own="its homes are looked into")
    folder = rootless_lab.host_directory("lab01")
    script = 'hostname; pwd; echo ~; echo "$TMPDIR"; echo $SHLVL; ls -A'
    lines = ssh(rootless_lab, "lab01", script).stdout.splitlines()
    assert lines == ["lab01", f"{folder}/home", f"{folder}/home", f"{folder}/tmp", "1"]
    assert ssh(rootless_lab, "lab02", "hostname").stdout == "lab02\n"


def test_a_rootless_host_reads_its_own_bashrc_once_and_never_the_users(rootless_lab: Lab) -> None:
    ssh(rootless_lab, "lab01", "echo 'echo from the host' > ~/.bashrc")
    try:
        assert ssh(rootless_lab, "lab01", "echo command").stdout == "from the host\ncommand\n"
    finally:
        ssh(rootless_lab, "lab01", "rm ~/.bashrc")


def test_files_can_be_copied_to_a_rootless_host(rootless_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)))
    argv = ["rsync", "-e", f"ssh -F {rootless_lab.ssh_config}", str(tmp_path / "file"), "lab01:by-rsync"]
    subprocess.run(argv, check=True, timeout=30)
    argv = ["scp", "-q", "-F", str(rootless_lab.ssh_config), str(tmp_path / "file"), "lab01:by-sftp"]
    subprocess.run(argv, check=True, timeout=30)
    home = rootless_lab.host_directory("lab01") / "home"
    assert (home / "by-rsync").read_bytes() == (home / "by-sftp").read_bytes() == bytes(range(256))


@pytest.mark.parametrize(
    ("how", "met"),
    [("poweroff", "Connection refused"), ("sshd", "Connection refused"), ("hang", "silence"), ("freeze", "silence")],
)
def test_rootless_hosts_fail_and_mend(rootless_lab: Lab, how: str, met: str) -> None:
    # The second knows nothing of the lab but who started it.
    script = "for begin in '' 'env -i'; do setsid $begin /bin/sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; done"
    daemons = [int(word) for word in ssh(rootless_lab, "lab02", script).stdout.split()]
    assert len([pid for pid in daemons if processes.alive(pid)]) == 2
    labs.fail(rootless_lab.name, "lab02", how)
    assert connect(rootless_lab, "lab02") == met
    assert connect(rootless_lab, "lab01") == "SSH-"
    states = {(processes.stat_fields(pid) or ["gone"])[0] for pid in daemons}
    assert states <= {"poweroff": {"gone", "Z"}, "freeze": {"T"}}.get(how, {"S"})
    labs.heal(rootless_lab.name, "lab02")
    assert ssh(rootless_lab, "lab02", "hostname").stdout == "lab02\n"
    labs.fail(rootless_lab.name, "lab02", "poweroff")
    labs.heal(rootless_lab.name, "lab02")


@pytest.mark.parametrize("how", ["cut", "cut-in", "disk-full"])
def test_what_a_rootless_lab_cannot_do_it_says(rootless_lab: Lab, how: str) -> None:
    with pytest.raises(InputError, match=f"a rootless lab cannot do '{how}'"):
        labs.fail(rootless_lab.name, "lab01", how)
    assert labs.get(rootless_lab.name).host("lab01").faults == ()


@pytest.mark.root
def test_an_ordinary_user_can_have_a_lab(two: Lab) -> None:
    """The student of a lab host has no root and nothing of ours but a copy of the package."""
    inside = ["nsenter", f"--net=/run/netns/{two.netns}", "ssh", "-F", str(two.ssh_config), "lab01"]
    with subprocess.Popen(
        ["tar", "-C", str(CHECKOUT), "--exclude=__pycache__", "-c", "roomful"], stdout=subprocess.PIPE
    ) as tar:
        subprocess.run([*inside, "tar x"], stdin=tar.stdout, check=True, timeout=30)
    program = """
import json, os, subprocess
from roomful import lab
found = lab.up(lab.LabOptions(count=2))
argv = ["ssh", "-F", found.ssh_config, "lab02", "hostname; pwd; id -un"]
say = subprocess.run(argv, capture_output=True, text=True)
print(found.rootless, found.user, found.directory, say.stdout.split(), say.stderr)
print(lab.fail("lab", "lab01", "poweroff").faults, lab.heal("lab", "lab01").faults)
print(lab.down("lab"), os.path.exists("/tmp/roomful-labs-20001"), os.path.exists(os.path.expanduser("~/.ssh")))
"""
    argv = [*inside, "python3 -"]
    result = subprocess.run(argv, input=program, capture_output=True, text=True, timeout=60, check=False)
    home = "/tmp/roomful-labs-20001/lab/hosts/lab02/home"
    assert result.stdout.splitlines() == [
        f"True student /tmp/roomful-labs-20001/lab ['lab02', '{home}', 'student'] ",
        "('poweroff',) ()",
        "True False False",
    ], result.stderr
    assert ssh(two, "lab01", "pgrep -u student -c python3").stdout == "0\n"
