"""Getting in, looking and moving there, over 64 hosts and one that has no address, with 18 of them broken at once."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from roomful.lab.model import STUDENT_ID
from roomful.outcome import UNREACHABLE_REASONS
from tests.support.broken_room import OFF, REFUSE_KEY, UNREACHABLE, broken, home_of
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, lab
from tests.support.sleepers import alive

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.timeout(300)]

COUNT = 64
PASSWORD = "sesame open"
#: Deadlines in seconds: to connect (before the kernel gives up on an address by itself), to log in, for a command.
CONNECT, LOGIN, COMMAND = 2.5, 4.0, 5.0
#: What two cores need for 64 hosts on top of a deadline, beside others' tests.
SLACK = 20.0
#: Hosts that want a password at first: most of those that are broken in other ways, and some that are well.
WANT_PASSWORD = {*REFUSE_KEY, "lab09", "lab10", "lab12", "lab13", "lab14", "lab15", "lab18", "lab21", "lab22"}
#: Of these, where no key can be put.
NO_KEY = {"lab09": "command-timeout", "lab10": "disk-full", "lab18": "exit 1"}
#: After inv authorize, as far as it got.
STAY_OUT = {host: reason for host, reason in UNREACHABLE.items() if host not in REFUSE_KEY}
WITHOUT_KEY = {**STAY_OUT, **dict.fromkeys(NO_KEY, "auth")}
#: Where not even a key can be seen: the others of STAY_OUT fail at their login.
SPEECHLESS = {host: reason for host, reason in STAY_OUT.items() if host not in ("lab05", "lab11")}
#: The first hosts of the list, with every kind of broken one, for what goes on from host to host or to one alone.
SOME = 24
PAYLOAD_BYTES = 3_000_000


@dataclass
class Step:
    """How one step ended."""

    code: int
    words: str
    seconds: float
    document: dict[str, Any] = field(default_factory=dict)

    def not_ok(self) -> dict[str, str]:
        """The hosts that did not succeed, and why; says why to people, too."""
        found = {item["host"]: item for item in self.document["hosts"] if item["status"] != "ok"}
        assert all(item["detail"] for item in found.values())
        for host, item in found.items():
            assert item["status"] == ("unreachable" if item["reason"] in UNREACHABLE_REASONS else "failed"), host
        return {host: item["reason"] for host, item in found.items()}


@dataclass
class Trial:
    """A project in front of the room."""

    project: Project
    authorized: Step
    #: A shell on a host where the login hangs, which takes longest of all.
    hanging: Future[Step]

    def go(self, *words: str, code: int = 1) -> Step:
        """Take a step without a terminal."""
        begin = time.monotonic()
        done = self.project.inv(*words, "--json")
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return Step(done.returncode, done.stderr, time.monotonic() - begin, json.loads(done.stdout))

    def each(self, hosts: Iterable[str], *words: str) -> dict[str, Step]:
        """Take a step on each host alone, on all of them at the same time; HOST stands for it."""

        chosen = tuple(hosts)
        with ThreadPoolExecutor(len(chosen)) as pool:
            steps = pool.map(lambda host: said(self.project, *[word.replace("HOST", host) for word in words]), chosen)
            return dict(zip(chosen, steps, strict=True))


def said(project: Project, *words: str) -> Step:
    """Take a step that is for people."""
    begin = time.monotonic()
    done = project.inv(*words)
    return Step(done.returncode, done.stdout + done.stderr, time.monotonic() - begin)


@pytest.fixture(scope="module")
def room(lab: LabFactory) -> Iterator[Lab]:
    found = lab(
        own="size-access",
        count=COUNT,
        rootless=False,
        disk=24 * 2**20,
        off=OFF,
        password=PASSWORD,
        refuse_key=tuple(sorted(WANT_PASSWORD)),
    )
    with broken(found):
        yield labs.get(found.name)


@pytest.fixture(scope="module")
def trial(room: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A project whose hosts have been authorized, with one password."""
    project = project_for(
        room,
        tmp_path_factory.mktemp("project"),
        tmp_path_factory.mktemp("home"),
        connect_timeout_seconds=CONNECT,
        login_timeout_seconds=LOGIN,
        command_timeout_seconds=COMMAND,
    )
    lists = project.root / "host_lists"
    nowhere = f"nowhere address=nosuch.invalid netns={room.netns}\n"
    lines = (lists / "lab.txt").read_text().splitlines(keepends=True)
    (lists / "lab.txt").write_text("".join(lines) + nowhere)
    (lists / "some.txt").write_text("".join(lines[:SOME]) + nowhere)
    (project.root / "payload").mkdir()
    (project.root / "payload" / "big").write_bytes(os.urandom(PAYLOAD_BYTES))
    begin = time.monotonic()
    code, screen = project.on_terminal("authorize", "--json", answers={"password on": PASSWORD})
    seconds = time.monotonic() - begin
    found = re.search(r"^\{.*^\}", screen, re.MULTILINE | re.DOTALL)
    assert found, screen
    authorized = Step(code, screen.replace("\r\n", "\n"), seconds, json.loads(found[0]))
    with ThreadPoolExecutor(1) as pool:
        yield Trial(project, authorized, pool.submit(said, project, "shell", "lab11", "--", "echo hello"))


def test_one_password_lets_us_in_wherever_a_key_can_be_put(trial: Trial, room: Lab) -> None:
    step = trial.authorized
    assert step.not_ok() == {**STAY_OUT, **NO_KEY}
    assert step.code == 1
    # Who wants the password is known when everybody has had a deadline to log in; then comes the putting.
    assert step.seconds < LOGIN + LOGIN + SLACK
    assert step.words.count("password on 10 hosts (lab[03,09-10,12-15,18,21-22])") == 1
    assert PASSWORD not in step.words
    added = {item["host"] for item in step.document["hosts"] if item["key"] == "added"}
    assert added == WANT_PASSWORD - set(NO_KEY)
    assert f"65 hosts: {65 - 15} ok, 3 failed, 12 unreachable" in step.words
    assert "again on these: inv authorize --json '--hosts=lab[02,04-11,16-20],nowhere'" in step.words
    why = {item["host"]: item["detail"] for item in step.document["hosts"]}
    assert "no command ran within 4 s" in why["lab09"]
    assert "No space left on device" in why["lab10"]
    assert "Permission denied" in why["lab18"]
    for host in WANT_PASSWORD:
        assert not (home_of(room, host) / ".ssh" / ".roomful.lock").exists(), host


def test_a_second_run_changes_nothing_and_asks_nobody(trial: Trial, room: Lab) -> None:
    slow = "lab[02,06-07,11,16,19-20]"
    step = trial.go("authorize", "--exclude", slow)
    gone = {"lab02", "lab06", "lab07", "lab11", "lab16", "lab19", "lab20"}
    assert step.not_ok() == {host: reason for host, reason in WITHOUT_KEY.items() if host not in gone}
    assert {item["key"] for item in step.document["hosts"] if item["status"] == "ok"} == {"already"}
    keys = home_of(room, "lab22") / ".ssh" / "authorized_keys"
    assert len(keys.read_text().splitlines()) == 1


def test_the_hosts_are_ranked(trial: Trial) -> None:
    step = trial.go("rank", "--output", "fastest")
    assert step.not_ok() == {**WITHOUT_KEY, "lab12": "no-python"}
    # Seven rounds on 49 hosts at once need 13 s on two cores.
    assert step.seconds < LOGIN + SLACK + 15
    assert "65 hosts: 49 ok, 1 failed, 15 unreachable" in step.words
    assert "again on these: inv rank --json '--hosts=lab[02,04-12,16-20],nowhere'\n" in step.words
    ranked = [
        line.split()[:2] for line in (trial.project.root / "host_lists" / "fastest.txt").read_text().splitlines()
    ]
    assert len(ranked) == 49
    weights = [1.0 if "=" in word else float(word) for _, word in ranked]
    assert weights == sorted(weights)
    known = trial.project.json("hosts")["hosts"]
    assert {item["host"] for item in known if "rank" in item} == {host for host, _ in ranked}


def test_what_is_known_of_all_is_there_at_once(trial: Trial) -> None:
    begin = time.monotonic()
    done = trial.project.inv("hosts")
    # 0.2 s on a machine that has nothing else to do.
    assert time.monotonic() - begin < 2.0
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2 + COUNT + 1


def test_fingerprints_are_shown_wherever_there_is_one(trial: Trial, room: Lab) -> None:
    before = room.known_hosts.read_bytes()
    step = trial.go("trust")
    assert step.not_ok() == SPEECHLESS
    assert step.seconds < LOGIN + SLACK
    assert "65 hosts: 55 ok, 0 failed, 10 unreachable" in step.words
    new = {item["host"] for item in step.document["hosts"] if item["key"] == "new"}
    assert (new, step.document["remembered"]) == ({"lab05"}, 0)
    assert "again on these: inv trust --json '--hosts=lab[02,04,06-08,16-17,19-20],nowhere'" in step.words
    assert "nothing was remembered; to do so: add --yes\n" in step.words
    changed = next(item for item in step.document["hosts"] if item["host"] == "lab04")["detail"]
    assert changed.startswith(f"changed key ({room.known_hosts}:4): ssh-ed25519 SHA256:")
    assert room.known_hosts.read_bytes() == before


def test_a_relay_goes_round_the_broken_hosts_and_leaves_no_trace_of_its_own(trial: Trial, room: Lab) -> None:
    for host in ("lab01", "lab03", "lab13", "lab14", "lab15", "lab21", "lab22", "lab23", "lab24"):
        key = home_of(room, host) / ".ssh" / "id_ed25519"
        key.parent.mkdir(mode=0o700, exist_ok=True)
        key.write_bytes(room.identity_file.read_bytes())
        key.chmod(0o600)
        for path in (key.parent, key):
            os.chown(path, STUDENT_ID, STUDENT_ID)
    step = trial.go("deploy", "payload", "--relay", "chain", "--hosts", "some")
    # A shell that writes into rsync's conversation is no matter here: what was relayed is put together without rsync.
    failed = {"lab12": "no-python", "lab15": "no-program"}
    assert step.not_ok() == {**WITHOUT_KEY, **failed}
    assert "25 hosts: 8 ok, 2 failed, 15 unreachable" in step.words
    again = "again on these: inv deploy payload '--hosts=lab[02,04-12,15-20],nowhere' --relay=chain --json"
    assert again in step.words
    # All that can run the program are on the way: from the first to the others.
    assert "sent once to lab01, passed on over SSH to 8 of 8\n" in step.words
    assert sum(item.get("bytes_sent", 0) for item in step.document["hosts"]) < PAYLOAD_BYTES // 10
    assert step.seconds < LOGIN + SLACK, step.words
    for host in room.hosts:
        staging = home_of(room, host.name) / "roomful" / ".roomful" / "deploy" / "top" / "staging"
        left = list(staging.iterdir()) if staging.exists() else []
        assert left == [] or host.name in failed, host.name
        tmp = room.host_directory(host.name) / "disk" / "tmp"
        assert [path for path in tmp.iterdir() if "roomful" in path.name] == [], host.name


#: OpenSSH's own words, as it talks to people here.
SSH_SAYS = {
    "lab02": "timed out", "lab04": "HAS CHANGED", "lab05": "No ED25519 host key is known", "lab06": "timed out",
    "lab07": "timed out", "lab08": "No SSH version received", "lab09": "Permission denied",
    "lab10": "Permission denied", "lab11": "timed out", "lab16": "timed out", "lab17": "Connection refused",
    "lab18": "Permission denied", "lab19": "timed out", "lab20": "timed out",
    "nowhere": "Could not resolve hostname nosuch.invalid",
}  # fmt: skip
#: ssh asks three times, 5 s apart, before it gives up a login that hangs.
SHELL_SECONDS = 15.0


def test_a_shell_on_a_broken_host_ends_with_what_ssh_says(trial: Trial) -> None:
    assert set(SSH_SAYS) == set(WITHOUT_KEY)
    steps = trial.each(sorted({*SSH_SAYS} - {"lab11"}), "shell", "HOST", "--", "echo hello")
    steps["lab11"] = trial.hanging.result()
    for host, step in steps.items():
        assert (step.code, SSH_SAYS[host] in step.words) == (255, True), (host, step)
        assert step.seconds < SHELL_SECONDS + SLACK
    well = trial.each(["lab12", "lab13", "lab14", "lab15", "lab21"], "shell", "HOST", "--", "echo hello")
    assert all(step.code == 0 and step.words.endswith("hello\n") for step in well.values()), well


def test_the_toolbox_goes_to_a_server_with_all_lists_and_to_no_broken_host(trial: Trial, room: Lab) -> None:
    steps = trial.each([*WITHOUT_KEY, "lab13", "lab14"], "push-toolbox", "--copy-only", "--on", "HOST")
    for host, reason in WITHOUT_KEY.items():
        assert steps[host].code == 1, (host, steps[host])
        assert steps[host].words.startswith(f"inv push-toolbox: {host}: {reason}: "), steps[host]
        assert steps[host].words.count("\n") == 1
        assert steps[host].seconds < LOGIN + SLACK
    # One with a shell that has its say before every command, one with a csh.
    for host in ("lab13", "lab14"):
        there = home_of(room, host) / "roomful-toolbox"
        line = f"inv shell {host} -- 'cd /home/student/roomful-toolbox && ./bootstrap inv start-server'\n"
        assert line in steps[host].words, steps[host]
        assert (steps[host].code, (there / "bootstrap").is_file()) == (0, True)
        for name in ("lab", "some"):
            ours = trial.project.root / "host_lists" / f"{name}.txt"
            assert (there / "host_lists" / f"{name}.txt").read_bytes() == ours.read_bytes()
        assert [path.name for path in there.glob(".roomful-toolbox*")] == [".roomful-toolbox"]
    assert alive(room.name, "python3") == []
