"""`inv filter` as its users call it: who passes, why the others do not, and what the new list looks like."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful.hosts import read_host_list
from roomful.lab import Lab, fail, heal
from tests.support import bad_servers
from tests.support.lab import LabFactory, lab, rootless_lab, settings_for, ssh

__all__ = ["lab", "rootless_lab"]

ROOT = Path(__file__).parents[2]
INV = [sys.executable, "-m", "invoke"]

Inv = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def room(lab: LabFactory) -> Lab:
    return lab(count=4, refuse_key=("lab04",), rootless=True)


@pytest.fixture
def project(room: Lab, tmp_path: Path) -> Path:
    """A project whose list has comments, weights, a host that refuses the key and one where nothing listens."""
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
    settings_for(room, tmp_path)
    lines = (tmp_path / "host_lists" / "lab.txt").read_text().splitlines()
    path = tmp_path / "host_lists" / "mixed.txt"
    path.write_text(
        "# our machines\n\n"
        f"{lines[0].replace(' ', ' 2.0 1.5 rack=a ', 1)}  # the slow one\n"
        "# downstairs\n" + "".join(f"{line}\n" for line in lines[1:]) + "127.0.0.1:1 # switched off\n"
    )
    return tmp_path


@pytest.fixture
def inv(project: Path) -> Inv:
    def call(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*INV, *words],
            cwd=project,
            env={**os.environ, "INVOKE_ROOMFUL_CONNECT_TIMEOUT_SECONDS": "3", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


def rows(stdout: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in stdout.splitlines()[2:]}


def test_who_passes_and_why_the_others_do_not(inv: Inv) -> None:
    done = inv("filter", "--hosts", "mixed")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert {host: row[0] for host, row in found.items()} == {
        "lab01": "ok",
        "lab02": "ok",
        "lab03": "ok",
        "lab04": "unreachable",
        "127.0.0.1:1": "unreachable",
    }
    assert (found["lab04"][1], found["127.0.0.1:1"][1]) == ("auth", "refused")
    assert done.stderr == (
        "5 hosts: 3 ok, 0 failed, 2 unreachable\nreasons: 1 auth, 1 refused\n"
        "again on these: inv filter --hosts=lab04,127.0.0.1:1\n"
    )


def test_the_new_list_has_the_lines_as_they_were(inv: Inv, project: Path) -> None:
    old = (project / "host_lists" / "mixed.txt").read_text()
    done = inv("filter", "--hosts", "mixed", "--output", "mine")
    assert done.returncode == 0, done.stderr
    kept = [line for line in old.splitlines() if not line.startswith(("lab04", "127."))]
    assert (project / "host_lists" / "mine.txt").read_text().splitlines() == kept
    assert (project / "host_lists" / "mixed.txt").read_text() == old
    assert done.stderr.splitlines()[-1] == "host_lists/mine.txt: 3 hosts, 2 dropped"
    # The line that tries the others again must not write over the list.
    assert "again on these: inv filter --hosts=lab04,127.0.0.1:1\n" in done.stderr
    first = read_host_list(project / "host_lists" / "mine.txt").hosts[0]
    assert (first.load_weight, first.memory_weight, first.attributes["rack"]) == (2.0, 1.5, "a")
    assert inv("filter", "--hosts", "mine", "--strict").returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param((), 0, id="default"),
        pytest.param(("--strict",), 1, id="strict"),
        pytest.param(("--max-failed", "1"), 1, id="one-may-fail"),
        pytest.param(("--max-failed", "2"), 0, id="two-may-fail"),
        pytest.param(("--max-failed", "39%"), 1, id="39-percent-may-fail"),
        pytest.param(("--max-failed", "40%"), 0, id="40-percent-may-fail"),
        pytest.param(("--exclude", "lab04,127.0.0.1:1", "--strict"), 0, id="strict-without-the-bad-ones"),
    ],
)
def test_exit_codes(inv: Inv, words: tuple[str, ...], code: int) -> None:
    done = inv("filter", "--hosts", "mixed", *words)
    assert done.returncode == code, done.stderr


def test_a_name_that_nobody_knows_is_said_to_be_no_list_either(inv: Inv) -> None:
    done = inv("filter", "--hosts", "nosuch.invalid")
    assert done.returncode == 1
    assert "no host list has that name either: nosuch.invalid; the lists are: " in done.stderr


def test_none_passes(inv: Inv, project: Path) -> None:
    done = inv("filter", "--hosts", "lab04,127.0.0.1:1", "--output", "none")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "host_lists/none.txt: not written"
    assert not (project / "host_lists" / "none.txt").exists()


def test_json_is_one_document(inv: Inv, project: Path) -> None:
    done = inv("filter", "--hosts", "mixed", "--output", "mine", "--json")
    document = json.loads(done.stdout)
    assert (document["ok"], document["failed"], document["unreachable"]) == (3, 0, 2)
    assert document["list"] == str(project / "host_lists" / "mine.txt")
    assert {host["host"]: host["reason"] for host in document["hosts"] if host["status"] != "ok"} == {
        "lab04": "auth",
        "127.0.0.1:1": "refused",
    }


def test_a_host_whose_key_is_unknown_does_not_pass_unless_it_is_accepted(inv: Inv, room: Lab, project: Path) -> None:
    config = project / "config"
    text = room.ssh_config.read_text()
    config.write_text(re.sub(r"(?m)^(\s*)UserKnownHostsFile .*$", rf"\1UserKnownHostsFile {project}/known", text))
    (project / "host_lists" / "new.txt").write_text(f"lab01 address={room.hosts[0].address} ssh_config={config}\n")
    done = inv("filter", "--hosts", "new")
    assert (done.returncode, rows(done.stdout)["lab01"][:2]) == (1, ["unreachable", "host-key"])
    done = inv("filter", "--hosts", "new", "--accept-new-host-keys")
    assert done.returncode == 0, done.stdout
    assert inv("filter", "--hosts", "new").returncode == 0


def test_a_list_of_other_hosts_is_not_replaced_and_nobody_is_asked(inv: Inv, project: Path) -> None:
    path = project / "host_lists" / "precious.txt"
    path.write_text("lab01\nyoda # took all day to find\n")
    done = inv("filter", "--hosts", "mixed", "--output", "precious")
    assert (done.returncode, done.stdout) == (2, "")
    assert "will not replace this list: it holds hosts that were not checked: yoda" in done.stderr
    assert path.read_text() == "lab01\nyoda # took all day to find\n"


def test_a_silent_host_costs_one_deadline_and_nobody_elses_time(inv: Inv, project: Path) -> None:
    with bad_servers.serve(bad_servers.silent) as address, bad_servers.serve(bad_servers.silent) as other:
        start = time.monotonic()
        done = inv("filter", "--hosts", f"mixed,{address},{other}")
        seconds = time.monotonic() - start
    found = rows(done.stdout)
    assert (found[address][:2], found[other][:2]) == (["unreachable", "timeout"], ["unreachable", "timeout"])
    assert seconds < 3 + 4
    assert all(float(found[host][1]) < 3 for host in ("lab01", "lab02", "lab03"))


def terminal(argv: list[str], project: Path, until: bytes, number: int) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, send it a signal when ``until`` is on the screen; 0 sends none."""
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(project)
        os.environ["INVOKE_ROOMFUL_CONNECT_TIMEOUT_SECONDS"] = "30" if number else "3"
        os.execv(argv[0], argv)
    shown = b""
    deadline = time.monotonic() + 40
    sent = not number
    try:
        while time.monotonic() < deadline:
            if not select.select([screen], [], [], 0.2)[0]:
                continue
            try:
                shown += os.read(screen, 4096)
            except OSError:
                break  # the terminal's other end is closed: the process has ended
            if not sent and until in shown:
                sent = True
                os.kill(pid, number)
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_nothing_is_ever_asked_even_on_a_terminal(project: Path) -> None:
    code, shown = terminal([*INV, "filter", "--hosts", "mixed"], project, b"", 0)
    assert code == 0, shown
    assert b"lab04" in shown
    assert not re.search(rb"(?i)password|passphrase|yes/no|continue connecting", shown), shown


def test_interrupted_it_says_who_is_missing_and_writes_no_list(project: Path) -> None:
    with bad_servers.serve(bad_servers.silent) as address:
        argv = [*INV, "filter", "--hosts", f"mixed,{address}", "--output", "cut"]
        code, shown = terminal(argv, project, b"5/6", signal.SIGINT)
    assert code == 130, shown
    assert b"interrupted" in shown
    assert b"cut.txt: not written" in shown
    assert not (project / "host_lists" / "cut.txt").exists()


@pytest.mark.root
def test_hosts_that_fail_in_every_way_cost_one_deadline(lab: LabFactory, tmp_path: Path) -> None:
    faults = {
        "lab02": ("poweroff", "timeout|no-route"),
        "lab03": ("cut", "timeout|no-route"),
        "lab04": ("freeze", "timeout"),
        "lab05": ("sshd", "refused"),
        "lab06": ("hang", "timeout"),
        "lab07": ("hang-home", "timeout"),
        "lab08": ("refuse-key", "auth"),
        "lab09": ("host-key", "host-key"),
    }
    room = lab(count=11, own="every way to fail")
    # A login that works, and a shell that never gets to the command.
    ssh(room, "lab11", "echo sleep 600 > ~/.bashrc")
    settings_for(room, tmp_path)
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
    deadlines = {
        "INVOKE_ROOMFUL_CONNECT_TIMEOUT_SECONDS": "3",
        "INVOKE_ROOMFUL_LOGIN_TIMEOUT_SECONDS": "4",
    }
    try:
        for host, (how, _) in faults.items():
            fail(room.name, host, how)
        start = time.monotonic()
        done = subprocess.run(
            [*INV, "filter", "--hosts", "lab", "--output", "mine"],
            cwd=tmp_path,
            env={**os.environ, **deadlines},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        seconds = time.monotonic() - start
    finally:
        for host in faults:
            heal(room.name, host)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [host for host, row in found.items() if row[0] == "ok"] == ["lab01", "lab10"]
    for host, (_, reasons) in faults.items():
        assert found[host][0] == "unreachable"
        assert re.fullmatch(reasons, found[host][1]), (host, found[host])
    assert found["lab11"][:2] == ["failed", "command-timeout"]
    assert [host.name for host in read_host_list(tmp_path / "host_lists" / "mine.txt").hosts] == ["lab01", "lab10"]
    # One deadline to answer, one to log in or for the command, and what it takes to start.
    assert seconds < 3 + 4 + 4
