"""Every step of the workflow over 64 hosts and one that has no address, with 18 of them broken in 17 ways at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.support.broken_room import OFF, REFUSE_KEY, UNREACHABLE, broken, home_of
from tests.support.inv import Project, project_for
from tests.support.lab import LabFactory, lab
from tests.support.sleepers import alive

__all__ = ["lab"]

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.timeout(300)]

COUNT = 64
#: Deadlines in seconds: to connect, to log in, for a command.
CONNECT, LOGIN, COMMAND = 5.0, 6.0, 6.0
#: What two cores need for 64 hosts on top of a deadline, beside others' tests.
SLACK = 25.0
SILENT = {"lab09": "command-timeout"}
NO_PYTHON = {"lab12": "no-python"}
FULL = {"lab10": "disk-full"}
#: In one's own network the kernel gives up after 3 s on an address that nobody answers for: then it is no-route.
SILENT_ADDRESSES = {"lab02", "lab16", "lab20"}
#: The steps in order, and the hosts on which each fails besides those that nobody can log in to.
STEPS: list[tuple[list[str], dict[str, str], float]] = [
    (["filter", "--output", "mine"], SILENT, LOGIN),
    (
        ["doctor", "--output", "usable"],
        {
            "lab09": "shell-hangs", "lab10": "disk-full", "lab12": "no-python", "lab13": "noisy-shell",
            "lab15": "no-program", "lab18": "home",
        },
        12.0,
    ),
    (["run", "--", "echo hello"], SILENT, COMMAND),
    (["script", "say.sh"], {**SILENT, **FULL}, COMMAND),
    (
        ["deploy", "code"],
        {**SILENT, **FULL, **NO_PYTHON, "lab13": "noisy-shell", "lab15": "no-program", "lab18": "error"},
        COMMAND,
    ),
    (["create-folders", "out"], {**SILENT, **NO_PYTHON, "lab18": "error"}, COMMAND),
    (["start-clients"], {**SILENT, **FULL, **NO_PYTHON, "lab18": "error"}, COMMAND + 5),
    (["collect"], {**SILENT, **NO_PYTHON, "lab13": "noisy-shell", "lab15": "no-program"}, COMMAND + 5),
    (["stop-clients"], {**SILENT, **NO_PYTHON}, COMMAND + 5),
    (["clean", "--workdir", "--yes"], {**SILENT, **NO_PYTHON}, COMMAND),
]  # fmt: skip


@dataclass
class Trial:
    """What became of the steps."""

    project: Project
    documents: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@pytest.fixture(scope="module")
def room(lab: LabFactory) -> Iterator[Lab]:
    found = lab(own="size", count=COUNT, rootless=False, disk=24 * 2**20, off=OFF, refuse_key=REFUSE_KEY)
    with broken(found):
        yield labs.get(found.name)


@pytest.fixture(scope="module")
def trial(room: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Go through the whole workflow once."""
    home = tmp_path_factory.mktemp("home")
    project = project_for(
        room,
        tmp_path_factory.mktemp("project"),
        home,
        connect_timeout_seconds=CONNECT,
        login_timeout_seconds=LOGIN,
        command_timeout_seconds=COMMAND,
    )
    with (project.root / "host_lists" / "lab.txt").open("a") as file:
        file.write(f"nowhere address=nosuch.invalid netns={room.netns}\n")
    (project.root / "code").mkdir()
    (project.root / "code" / "data.txt").write_text("data\n")
    (project.root / "say.sh").write_text('echo "I am $(uname -s)"\n')
    (project.root / "tasks.txt").write_text("".join(f"echo {number} > out/{number}\n" for number in range(500)))
    tried = Trial(project)
    try:
        assert project.inv("start-server").returncode == 0
        for words, _, _ in STEPS:
            if words[0] == "collect":
                submitted = project.inv("submit", "tasks.txt", "--wait")
                tried.words["submit"] = submitted.stdout + submitted.stderr
                tried.documents["status"] = project.json("status")
            begin = time.monotonic()
            cut = words.index("--") if "--" in words else len(words)
            done = project.inv(*words[:cut], "--json", *words[cut:])
            tried.seconds[words[0]] = time.monotonic() - begin
            tried.codes[words[0]] = done.returncode
            tried.words[words[0]] = done.stderr
            tried.documents[words[0]] = json.loads(done.stdout)
        yield tried
    finally:
        project.inv("stop-clients", "--now", "--max-failed=100%")
        project.inv("stop-server", "--forget", "--yes")


@pytest.mark.parametrize(("words", "failed", "deadline"), STEPS, ids=[words[0] for words, _, _ in STEPS])
def test_each_host_ends_in_its_outcome_within_one_deadline(
    trial: Trial, words: list[str], failed: dict[str, str], deadline: float
) -> None:
    step = words[0]
    document = trial.documents[step]
    assert len(document["hosts"]) == COUNT + 1
    found = {item["host"]: (item["status"], item["reason"]) for item in document["hosts"] if item["status"] != "ok"}
    for host in SILENT_ADDRESSES & {host for host, outcome in found.items() if outcome[1] == "no-route"}:
        found[host] = ("unreachable", "timeout")
    expected = {host: ("unreachable", reason) for host, reason in UNREACHABLE.items()}
    expected |= {host: ("failed", reason) for host, reason in failed.items()}
    assert found == expected
    assert all(item["detail"] for item in document["hosts"] if item["status"] != "ok")
    # filter succeeds where some hosts pass.
    assert trial.codes[step] == (0 if step == "filter" else 1)
    assert trial.seconds[step] < deadline + SLACK, trial.seconds
    assert max(item["seconds"] for item in document["hosts"]) < deadline + SLACK
    assert f"65 hosts: {65 - len(expected)} ok, {len(failed)} failed, 13 unreachable" in trial.words[step]
    assert f"again on these: inv {step} " in trial.words[step]
    assert "Traceback" not in trial.words[step]


def test_every_task_was_done_once_and_everything_came_home(trial: Trial) -> None:
    assert "500 done, 0 failed" in trial.words["submit"]
    results = {path.name: path for path in (trial.project.root / "results").glob("lab*/out/*")}
    # Some were done where there is no way to fetch them from, and the table says where.
    away = {"lab13", "lab15"}
    done = {client["host"]: client["done"] for client in trial.documents["status"]["clients"]}
    assert sum(done.values()) == 500
    assert len(results) == sum(number for host, number in done.items() if host not in away)
    assert len(list((trial.project.root / "results" / "tasks").glob("*/*"))) == 500


def test_twenty_commands_at_once_on_every_server_that_is_well(trial: Trial) -> None:
    """Twice as many as sshd's MaxSessions lets in; each waits for its input, so that all run at the same time."""
    (trial.project.root / "exp.py").write_text("""
from roomful.experiments import *

servers = ServerList.from_hosts("usable")

@reg_exp(servers=servers)
def exp(servers):
    commands = [server.run_cmd("read x; exit $x") for server in servers for _ in range(20)]
    assert all(command.pid for command in commands)
    assert all(command.running for command in commands)
    for command in commands:
        command.async_stdin("0\\n")
    assert [command.wait() for command in commands] == [0] * len(commands)
    log(f"{len(servers)} servers, {len(commands)} commands")
""")
    done = trial.project.inv("experiments.run", "exp.py")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "46 servers, 920 commands" in done.stderr


def test_nothing_of_ours_is_left_on_the_hosts(trial: Trial, room: Lab) -> None:
    assert trial.codes["clean"] == 1
    for host in room.hosts:
        assert not (home_of(room, host.name) / "roomful").exists(), host.name
        tmp = room.host_directory(host.name) / "disk" / "tmp"
        assert [path for path in tmp.iterdir() if "roomful" in path.name] == [], host.name
    assert alive(room.name, "python3") == []
