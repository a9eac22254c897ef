"""inv authorize, trust and shell on real servers: passwords, keys, terminals, and what must never happen."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.lab.sshd import HOST_KEY
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, lab

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root]

PASSWORD = "sesame open"


def plain_list(room: Lab, project: Project, user: str = "student@") -> None:
    """Replace the list by one whose hosts bring no ssh_config: keys and known_hosts are the project's own."""
    lines = [f"{user}{host.name} address={host.address} netns={room.netns}\n" for host in room.hosts]
    (project.root / "host_lists" / "lab.txt").write_text("".join(lines))


def authorized_keys(room: Lab, host: str) -> list[str]:
    path = room.host_directory(host) / "disk" / "home" / "student" / ".ssh" / "authorized_keys"
    return path.read_text().splitlines() if path.exists() else []


class TestAuthorize:
    @pytest.fixture
    def room(self, lab: LabFactory) -> Lab:
        return lab(
            own="authorize", count=4, rootless=False, password=PASSWORD, refuse_key=("lab01", "lab02", "lab03")
        )

    @pytest.fixture
    def project(self, room: Lab, tmp_path: Path) -> Iterator[Project]:
        made = project_for(room, tmp_path, tmp_path / "home", known_hosts=str(room.known_hosts))
        yield made
        for host in room.hosts:
            path = room.host_directory(host.name) / "disk" / "home" / "student" / ".ssh" / "authorized_keys"
            path.unlink(missing_ok=True)

    def test_without_a_terminal_nobody_is_asked_and_nothing_is_read(self, project: Project) -> None:
        """The standard input belongs to the script that calls us."""
        words = " ".join(project.argv(["authorize"]))
        done = subprocess.run(
            ["sh", "-c", f"{words}; echo code $?; cat"],
            cwd=project.root,
            env=project.environment,
            input="the rest\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.endswith("code 1\nthe rest\n"), done.stderr
        assert "on a terminal only" in done.stderr
        assert "3 auth" in done.stderr

    def test_one_password_for_all_and_once_is_enough(self, project: Project, room: Lab) -> None:
        code, screen = project.on_terminal(
            "authorize", answers={"password on 3 hosts (lab01,lab02,lab03):": PASSWORD}
        )
        assert code == 0, screen
        assert screen.count("password on") == 1
        assert PASSWORD not in screen
        assert screen.count("added") == 3
        assert [len(authorized_keys(room, host.name)) for host in room.hosts] == [1, 1, 1, 0]
        again = project.json("authorize")
        assert {item["key"] for item in again["hosts"]} == {"already"}
        assert [len(authorized_keys(room, host.name)) for host in room.hosts] == [1, 1, 1, 0]

    def test_a_wrong_password_is_an_auth_failure_and_is_tried_once(self, project: Project, room: Lab) -> None:
        code, screen = project.on_terminal("authorize", "--hosts", "lab01", answers={"password on lab01:": "wrong"})
        assert code == 1, screen
        assert "the server refuses the password" in screen
        log = (room.host_directory("lab01") / "log").read_text()
        assert log.count("Failed password") == 1
        assert authorized_keys(room, "lab01") == []

    def test_a_key_is_made_where_there_is_none(self, project: Project, room: Lab) -> None:
        plain_list(room, project)
        code, screen = project.on_terminal("authorize", answers={"password on 4 hosts": PASSWORD})
        assert code == 0, screen
        key = project.root / "home" / ".ssh" / "id_ed25519"
        assert f"made a key: {key}" in screen
        assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        public = key.with_name("id_ed25519.pub").read_text().split()[1]
        assert all(public in authorized_keys(room, host.name)[-1] for host in room.hosts)
        assert project.json("run", "--", "true")["ok"] == 4

    def test_lines_that_are_there_stay_and_the_last_one_may_lack_its_end(self, project: Project, room: Lab) -> None:
        folder = room.host_directory("lab01") / "disk" / "home" / "student" / ".ssh"
        folder.mkdir(exist_ok=True)
        path = folder / "authorized_keys"
        public = room.identity_file.with_name("id_ed25519.pub").read_text().split()[1]
        path.write_text(f"# ssh-ed25519 {public} not this one\nssh-ed25519 AAAA other")
        subprocess.run(["chown", "-R", "20001:20001", folder], check=True)
        code, screen = project.on_terminal("authorize", "--hosts", "lab01", answers={"password on lab01:": PASSWORD})
        assert code == 0, screen
        lines = authorized_keys(room, "lab01")
        assert lines[1] == "ssh-ed25519 AAAA other"
        assert lines[2].split()[1] == public
        assert len(lines) == 3

    def test_no_password_goes_to_a_host_whose_key_is_unknown(self, project: Project, room: Lab) -> None:
        plain_list(room, project)
        (project.root / "empty").write_text("")
        values = json.loads((project.root / "invoke.yaml").read_text())
        values["roomful"]["known_hosts"] = "empty"
        (project.root / "invoke.yaml").write_text(json.dumps(values))
        before = (room.host_directory("lab01") / "log").read_text().count("password")
        code, screen = project.on_terminal("authorize", answers={"password on": PASSWORD})
        assert code == 1
        assert "password on" not in screen
        assert "unknown key" in screen
        assert (room.host_directory("lab01") / "log").read_text().count("password") == before


def test_hosts_that_share_a_home_get_one_line(lab: LabFactory, tmp_path: Path) -> None:
    refused = ("lab01", "lab02", "lab03", "lab04")
    room = lab(own="shared", count=4, rootless=False, password=PASSWORD, refuse_key=refused, shared_home=True)
    project = project_for(room, tmp_path, tmp_path / "home")
    code, screen = project.on_terminal("authorize", answers={"password on 4 hosts": PASSWORD})
    assert code == 0, screen
    path = room.directory / "shared" / "home" / "student" / ".ssh" / "authorized_keys"
    assert len(path.read_text().splitlines()) == 1
    assert not (path.parent / ".roomful.lock").exists()


class TestTrust:
    @pytest.fixture
    def room(self, lab: LabFactory) -> Iterator[Lab]:
        found = lab(own="trust", count=3, rootless=False)
        yield found
        labs.heal(found.name, "lab02")

    @pytest.fixture
    def project(self, room: Lab, tmp_path: Path) -> Project:
        made = project_for(
            room, tmp_path, tmp_path / "home", known_hosts="keys", identity_file=str(room.identity_file)
        )
        plain_list(room, made)
        return made

    @staticmethod
    def fingerprints(room: Lab) -> dict[str, str]:
        keys = {host.name: room.host_directory(host.name) / "etc" / f"{HOST_KEY}.pub" for host in room.hosts}
        said = {name: subprocess.check_output(["ssh-keygen", "-lf", key], text=True) for name, key in keys.items()}
        return {f"student@{name}": line.split()[1] for name, line in said.items()}

    def test_fingerprints_are_shown_and_remembered_only_after_a_yes(self, project: Project, room: Lab) -> None:
        shown = project.json("trust", code=1)
        assert {item["host"]: item["fingerprint"] for item in shown["hosts"]} == self.fingerprints(room)
        assert (shown["new"], shown["remembered"]) == (3, 0)
        assert not (project.root / "keys").exists()
        code, screen = project.on_terminal("trust", answers={"remember 3 new keys? [y/N]": "n"})
        assert code == 1, screen
        assert not (project.root / "keys").exists()
        code, screen = project.on_terminal("trust", answers={"remember 3 new keys? [y/N]": "y"})
        assert code == 0, screen
        assert len((project.root / "keys").read_text().splitlines()) == 3
        assert project.json("run", "--", "true")["ok"] == 3
        again = project.json("trust")
        assert (again["new"], {item["key"] for item in again["hosts"]}) == (0, {"known"})

    def test_a_changed_key_is_shown_with_the_old_one_and_refused_whatever_is_said(
        self, project: Project, room: Lab
    ) -> None:
        before = self.fingerprints(room)["student@lab02"]
        assert project.json("trust", "--yes")["remembered"] == 3
        kept = (project.root / "keys").read_bytes()
        labs.fail(room.name, "lab02", "host-key")
        document = project.json("trust", "--yes", "--hosts", "lab", code=1)
        (bad,) = [item for item in document["hosts"] if item["status"] != "ok"]
        assert (bad["host"], bad["reason"]) == ("student@lab02", "host-key")
        assert before in bad["detail"]
        assert self.fingerprints(room)["student@lab02"] in bad["detail"]
        assert "nothing was sent" in bad["detail"]
        assert (project.root / "keys").read_bytes() == kept

    def test_one_key_on_every_host_is_fine(self, project: Project, room: Lab) -> None:
        """A cluster that was cloned with its keys; here three names of one host."""
        address = room.hosts[0].address
        names = "".join(f"student@{name} address={address} netns={room.netns}\n" for name in ("one", "two", "three"))
        (project.root / "host_lists" / "lab.txt").write_text(names)
        assert project.json("trust", "--yes")["ok"] == 3
        assert len((project.root / "keys").read_text().splitlines()) == 1
        assert project.json("run", "--", "true")["ok"] == 3


class TestShell:
    @pytest.fixture
    def room(self, lab: LabFactory) -> Lab:
        return lab(count=2, rootless=False)

    @pytest.fixture
    def project(self, room: Lab, tmp_path: Path) -> Project:
        return project_for(room, tmp_path, tmp_path / "home")

    def test_a_login_has_a_terminal_and_ends_with_its_code(self, project: Project) -> None:
        code, screen = project.on_terminal("shell", "lab02", answers={"$ ": "tty; hostname; exit 7"})
        assert code == 7, screen
        assert "/dev/pts/" in screen
        assert "lab02" in screen

    def test_a_command_gets_what_comes_in_and_needs_no_terminal(self, project: Project) -> None:
        done = project.inv("shell", "lab01", "--", "cat; hostname", stdin="text\n")
        assert (done.returncode, done.stdout) == (0, "text\nlab01\n")
        assert project.inv("shell", "lab01", "--", "printf", "%s", "a b;'c").stdout == "a b;'c"

    @pytest.mark.parametrize(
        ("words", "said"), [(("lab",), "2 hosts"), ((), "2 hosts"), (("nohost?",), "bad host name")]
    )
    def test_it_takes_one_host(self, project: Project, words: tuple[str, ...], said: str) -> None:
        done = project.inv("shell", *words)
        assert done.returncode == 2
        assert said in done.stderr


class TestForwardingAndAgent:
    @pytest.fixture
    def room(self, lab: LabFactory) -> Lab:
        return lab(own="agent", count=8, rootless=False)

    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[str]:
        """An ssh-agent of our own, at this socket."""
        path = str(tmp_path / "agent")
        with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield path
            process.terminate()

    @staticmethod
    def add(agent: str, key: Path, passphrase: str, tmp_path: Path) -> None:
        ask = tmp_path / "ask"
        ask.write_text(f"#!/bin/sh\necho {passphrase}\n")
        ask.chmod(0o700)
        environment = {**os.environ, "SSH_AUTH_SOCK": agent, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, stdin=subprocess.DEVNULL, check=True)

    def test_an_encrypted_key_works_through_the_agent_on_all_hosts_at_once(
        self, room: Lab, agent: str, tmp_path: Path
    ) -> None:
        key = tmp_path / "locked"
        key.write_bytes(room.identity_file.read_bytes())
        key.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True)
        public = room.identity_file.with_name("id_ed25519.pub").read_text()
        key.with_name("locked.pub").write_text(public)
        # Others in the agent, which sshd would refuse: with six of them before ours it would hang up.
        for number in range(7):
            other = tmp_path / f"other{number}"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(other)], check=True)
            self.add(agent, other, "secret", tmp_path)
        project = project_for(room, tmp_path, tmp_path, known_hosts=str(room.known_hosts), identity_file=str(key))
        plain_list(room, project)
        without = project.json("run", "--", "true", code=1)
        assert {item["reason"] for item in without["hosts"]} == {"auth"}
        self.add(agent, key, "secret", tmp_path)
        environment = {**project.environment, "SSH_AUTH_SOCK": agent}
        assert Project(project.root, environment).json("run", "--", "true")["ok"] == 8

    def test_neither_agent_nor_x11_is_forwarded_whatever_ssh_config_says(
        self, room: Lab, agent: str, tmp_path: Path
    ) -> None:
        config = tmp_path / "ssh_config"
        # The lab's own configuration uses no agent; the first word on a matter counts.
        config.write_text(
            "IdentityAgent SSH_AUTH_SOCK\nForwardAgent yes\nForwardX11 yes\nForwardX11Trusted yes\n"
            + room.ssh_config.read_text()
        )
        project = project_for(room, tmp_path, tmp_path)
        text = (project.root / "host_lists" / "lab.txt").read_text().replace(str(room.ssh_config), str(config))
        (project.root / "host_lists" / "lab.txt").write_text(text)
        environment = {**project.environment, "SSH_AUTH_SOCK": agent, "DISPLAY": ":9"}
        there = Project(project.root, environment)
        look = "echo [$SSH_AUTH_SOCK$DISPLAY]"
        prefix = ["nsenter", f"--net=/run/netns/{room.netns}", "ssh", "-F", str(config), "-A", "lab01", look]
        plain = subprocess.run(prefix, env=environment, capture_output=True, text=True, check=True, timeout=30)
        assert plain.stdout != "[]\n", "the lab's servers allow it, so the test can fail"
        (item,) = there.json("run", "--hosts", "lab01", "--", look)["hosts"]
        assert item["stdout"] == "[]\n"
        assert there.inv("shell", "lab01", "--", look).stdout == "[]\n"
