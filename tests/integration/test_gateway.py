"""Hosts that are reached only through another one, by --gateway and by ssh_config, for every way of connecting."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.lab.model import STUDENT_ID
from roomful.lab.namespaces import NamespaceMachines
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, lab

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root]

#: These drop every packet for the controller: only the other hosts reach them.
INNER = ("lab03", "lab04")


@pytest.fixture
def room(lab: LabFactory) -> Lab:
    found = lab(own="gateway", count=4, rootless=False)
    for name in INNER:
        pid = NamespaceMachines(found).init_pid(found.host(name))
        route = ["ip", "route", "replace", "blackhole", f"{found.controller_address}/32"]
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *route], check=True)
    return found


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Project:
    return project_for(room, tmp_path, tmp_path / "home")


def statuses(project: Project, *words: str, code: int = 0) -> dict[str, str]:
    return {item["host"]: item["reason"] or item["status"] for item in project.json(*words, code=code)["hosts"]}


def test_without_the_gateway_they_cannot_be_reached(project: Project) -> None:
    found = statuses(project, "run", "--", "hostname", code=1)
    assert found == {"lab01": "ok", "lab02": "ok", "lab03": "timeout", "lab04": "timeout"}


def test_the_flag_and_the_setting_lead_through_it(project: Project, tmp_path: Path) -> None:
    hosts = project.json("run", "--gateway", "lab01", "--", "hostname; echo ${SSH_CONNECTION%% *}")["hosts"]
    said = {item["host"]: item["stdout"].split() for item in hosts}
    assert {name: words[0] for name, words in said.items()} == {name: name for name in said}
    # The gateway itself is reached directly, all others from it.
    gate = {words[1] for name, words in said.items() if name != "lab01"}
    assert len(gate) == 1
    assert said["lab01"][1] not in gate
    set_gateway(project, "lab01")
    assert set(statuses(project, "doctor").values()) == {"ok"}


def set_gateway(project: Project, name: str) -> None:
    values = json.loads((project.root / "invoke.yaml").read_text())
    values["roomful"]["gateway"] = name
    (project.root / "invoke.yaml").write_text(json.dumps(values))


def test_files_travel_through_it_both_ways(project: Project, room: Lab) -> None:
    source = project.root / "code"
    source.mkdir()
    (source / "program").write_text("x" * 100_000)
    through = ("--hosts", ",".join(INNER), "--gateway", "lab02")
    assert set(statuses(project, "deploy", "code", *through).values()) == {"ok"}
    write = "mkdir -p ~/roomful/out && wc -c <~/roomful/program >~/roomful/out/size"
    assert set(statuses(project, "run", *through, "--", write).values()) == {"ok"}
    project.json("collect", *through)
    found = {path.read_text() for path in (project.root / "results").rglob("size")}
    assert found == {"100000\n"}


def test_a_shell_goes_through_it(project: Project) -> None:
    done = project.inv("shell", "lab03", "--gateway", "lab01", "--", "hostname")
    assert (done.returncode, done.stdout) == (0, "lab03\n")


def test_the_keeper_and_the_agents_go_through_it(project: Project) -> None:
    set_gateway(project, "lab01")
    hosts = ("--hosts", ",".join(INNER))
    (project.root / "tasks.txt").write_text("hostname\n" * 4)
    try:
        assert project.inv("start-server").returncode == 0
        started = project.inv("start-clients", *hosts)
        assert started.returncode == 0, started.stderr
        done = project.inv("submit", "tasks.txt", "--wait", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
    finally:
        stopped = project.inv("stop-clients", *hosts)
        project.inv("stop-server", "--forget", "--yes")
    assert stopped.returncode == 0, stopped.stderr


def test_a_server_on_the_gateway_links_to_its_neighbours_directly(project: Project, room: Lab) -> None:
    """The clients are reachable only through the server: the way from here has a gateway, the keeper's has none."""
    set_gateway(project, "lab01")
    folder = room.host_directory("lab01") / "disk" / "home" / "student" / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(room.identity_file, folder)
    for path in (folder, folder / room.identity_file.name):
        os.chown(path, STUDENT_ID, STUDENT_ID)
    hosts = ("--hosts", ",".join(INNER))
    (project.root / "tasks.txt").write_text("hostname\n" * 4)
    try:
        on = project.inv("start-server", "--on", "lab01")
        assert on.returncode == 0, on.stderr
        started = project.inv("start-clients", *hosts)
        assert started.returncode == 0, started.stderr
        done = project.inv("submit", "tasks.txt", "--wait", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
    finally:
        project.inv("stop-clients", *hosts)
        project.inv("stop-server", "--forget", "--yes")


def test_a_gateway_that_is_off_is_named(project: Project, lab: LabFactory) -> None:
    room = lab(own="no gateway", count=2, rootless=False, off=("lab01",))
    there = project_for(room, project.root / "other", project.root)
    found = there.json("run", "--hosts", "lab02", "--gateway", "lab01", "--", "true", code=1)["hosts"][0]
    assert found["status"] == "unreachable"
    assert found["reason"] == "timeout"
    assert found["seconds"] < 8
    assert "through lab01" in found["detail"]


def test_a_changed_key_of_the_gateway_stops_everything(lab: LabFactory, tmp_path: Path) -> None:
    room = lab(own="bad gateway", count=2, rootless=False)
    labs.fail(room.name, "lab01", "host-key")
    there = project_for(room, tmp_path, tmp_path)
    found = there.json("run", "--hosts", "lab02", "--gateway", "lab01", "--", "true", code=1)["hosts"][0]
    assert (found["status"], found["reason"]) == ("unreachable", "host-key")


class TestSshConfig:
    @pytest.fixture
    def written(self, room: Lab, project: Project) -> Project:
        """A list of aliases, which only the ssh_config explains."""
        blocks = f"""\
Host front
    HostName {room.hosts[1].address}
Host inner
    HostName {room.hosts[2].address}
    ProxyJump front
Host deep
    HostName {room.hosts[3].address}
    ProxyJump front,inner
Host command
    HostName {room.hosts[2].address}
    ProxyCommand ssh -F {project.root}/ssh_config -W %h:%p front
Host stranger
    HostName {room.hosts[0].address}
    User stranger
Host keyless
    HostName {room.hosts[0].address}
    IdentityFile {project.root}/none
Host elsewhere
    HostName {room.hosts[0].address}
    Port 2200
"""
        common = "Host *\n" + room.ssh_config.read_text().partition("Host *\n")[2]
        # The first IdentityFile would not end the search: the alias has its own.
        common = common.replace(f"IdentityFile {room.identity_file}", "")
        keyed = f"Match originalhost !keyless,*\n    IdentityFile {room.identity_file}\n"
        (project.root / "ssh_config").write_text(blocks + keyed + common)
        names = ("front", "inner", "deep", "command", "stranger", "keyless", "elsewhere")
        lines = [f"{name} netns={room.netns} ssh_config={project.root}/ssh_config\n" for name in names]
        (project.root / "host_lists" / "lab.txt").write_text("".join(lines))
        return project

    def test_aliases_users_ports_keys_and_jumps(self, written: Project) -> None:
        hosts = {item["host"]: item for item in written.json("run", "--", "hostname", code=1)["hosts"]}
        names = {name: item["stdout"].strip() for name, item in hosts.items() if item["status"] == "ok"}
        assert names == {"front": "lab02", "inner": "lab03", "deep": "lab04", "command": "lab03"}
        reasons = {name: item["reason"] for name, item in hosts.items() if item["status"] != "ok"}
        assert reasons == {"stranger": "auth", "keyless": "auth", "elsewhere": "refused"}

    def test_openssh_goes_the_same_ways(self, written: Project) -> None:
        (written.root / "code").mkdir()
        (written.root / "code" / "file").write_text("x")
        assert set(statuses(written, "deploy", "code", "--hosts", "inner,deep").values()) == {"ok"}
        assert written.inv("shell", "deep", "--", "hostname").stdout == "lab04\n"


def test_many_hosts_cost_their_gateway_one_login(lab: LabFactory, tmp_path: Path) -> None:
    """Its server takes two who have not logged in yet, and turns away every other one."""
    room = lab(own="busy gateway", count=24, rootless=False, max_startups="2:100:2")
    there = project_for(room, tmp_path, tmp_path, connect_timeout_seconds=10)
    before = (room.host_directory("lab01") / "log").read_text().count("Accepted publickey")
    # The gateway's own turn would come on top.
    found = statuses(there, "run", "--gateway", "lab01", "--exclude", "lab01", "--", "true")
    assert found == {f"lab{number:02}": "ok" for number in range(2, 25)}
    logins = (room.host_directory("lab01") / "log").read_text().count("Accepted publickey") - before
    assert logins == 1
