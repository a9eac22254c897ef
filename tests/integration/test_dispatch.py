"""dsh as people use it: streams, exit codes, signals, make, and who may talk to the dispatcher."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.dispatcher import Room, room, running_room
from tests.support.inv import project_for
from tests.support.lab import lab, rootless_lab
from tests.support.waiting import wait_until

__all__ = ["lab", "room", "rootless_lab", "running_room"]


@pytest.mark.parametrize(
    ("line", "code", "stdout"),
    [
        ("dsh true", 0, b""),
        ("dsh false", 1, b""),
        ("dsh sh -c 'exit 200'", 200, b""),
        ("dsh sh -c 'kill -9 $$'", 137, b""),
        ("dsh sh -c 'kill -SEGV $$'", 139, b""),
        ("dsh no-such-program", 127, b""),
        ("touch plain; dsh ./plain", 126, b""),
        ("dsh printf '%s|' a 'b c' '' '*' '$HOME'", 0, b"a|b c||*|$HOME|"),
        ("printf 'a\\0b' | dsh cat", 0, b"a\0b"),
        ("dsh cat < /dev/null", 0, b""),
        ("dsh cat <&-", 0, b""),
        ("dsh -n cat", 0, b""),
        ("dsh ''", 125, b""),
        ("dsh --retry inf true", 125, b""),
        ("dsh --env =x true", 125, b""),
        ("dsh sh -c 'echo out; echo err >&2' 2>/dev/null", 0, b"out\n"),
        ("dsh sh -c 'echo out; echo err >&2' 2>&1 >/dev/null", 0, b"err\n"),
        ("dsh echo x > /dev/full", 125, b""),
        ("dsh yes | head -1", 0, b"y\n"),
        ("yes | dsh head -1", 0, b"y\n"),
        ("dsh sh -c 'printf %s \"$LC_ALL,$SECRET,$W\"'", 0, b"C,,"),
        ("dsh --env W --env SECRET=s sh -c 'printf %s \"$SECRET,$W\"'", 0, b"s,w x"),
        ("echo a > f; dsh sh -c 'cat f; echo b >> f'; cat f", 0, b"a\na\nb\n"),
        ("mkdir -p link/t; ln -sfn link/t l; cd l; dsh sh -c 'echo ${PWD##*/}'", 0, b"l\n"),
    ],
)
def test_a_command_is_as_if_it_ran_here(room: Room, line: str, code: int, stdout: bytes) -> None:
    done = room.sh(f"export LC_ALL=C SECRET=x W='w x'; unset LANG; {line}")
    assert (done.returncode, done.stdout) == (code, stdout), done.stderr


@pytest.mark.parametrize(("mask", "mode"), [("027", b"750\n"), ("0", b"777\n"), ("077", b"700\n")])
def test_what_it_makes_has_our_umask(room: Room, mask: str, mode: bytes) -> None:
    assert room.sh(f"umask {mask}; dsh mkdir d; stat -c %a d").stdout == mode


@pytest.mark.parametrize("tail", ["2>&1", "2>&1 | cat", "> f 2>&1; cat f", ">> f 2>&1; cat f"])
def test_both_outputs_in_one_keep_their_order(room: Room, tail: str) -> None:
    counts = range(1000)
    done = room.sh(f"dsh sh -c 'for i in $(seq 0 999); do echo out $i; echo err $i >&2; done' {tail}")
    assert done.stdout.decode().splitlines() == [f"{kind} {count}" for count in counts for kind in ("out", "err")]


def test_the_closed_pipe_of_a_reader_ends_the_command(room: Room) -> None:
    done = room.sh("{ dsh yes; echo $? >&3; } 3>code | head -1; cat code")
    assert done.stdout.split() == [b"y", b"141"]


def test_a_folder_that_is_not_there_is_named_with_what_to_do(room: Room) -> None:
    done = room.sh(f"dsh --chdir {room.work}=/no/such/place pwd")
    assert done.returncode == 125
    assert re.fullmatch(rb"dsh: \S+: the folder /no/such/place: No such .*--chdir.*--sync.*\n", done.stderr)


def test_a_mapped_folder_is_used(room: Room) -> None:
    (room.work / "there").mkdir()
    assert room.sh(f"dsh --chdir {room.work}={room.work}/there pwd").stdout == f"{room.work}/there\n".encode()


def test_sync_brings_the_folder_there_and_the_results_back(room: Room) -> None:
    here, there = room.work / "here", room.work / "there"
    (here / "sub dir").mkdir(parents=True)
    (here / "sub dir" / "in").write_bytes(b"\0data\n")
    line = f"dsh --sync --chdir {here}={there} sh -c 'cp \"sub dir/in\" out; echo changed > same; pwd'"
    (here / "same").write_text("same size")
    done = room.sh(f"cd here && {line}")
    assert (done.returncode, done.stdout) == (0, f"{there}\n".encode()), done.stderr
    assert (here / "out").read_bytes() == b"\0data\n"
    assert (here / "same").read_text() == "changed\n"
    assert not list(there.glob(".*"))
    assert not list(here.glob(".*"))
    # What another run here makes is newer than what lies there, and stays.
    (here / "same").write_text("mine")
    assert room.sh(f"cd here && dsh --sync --chdir {here}={there} cat same").stdout == b"mine"
    assert (here / "same").read_text() == "mine"


def test_sync_says_why_it_cannot(room: Room) -> None:
    done = room.sh(f"dsh --sync --chdir {room.work}=/proc/none true")
    assert done.returncode == 125
    assert b"cannot bring" in done.stderr
    assert b"/proc/none" in done.stderr


def test_200_mb_pass_through_unchanged(room: Room) -> None:
    size = 200_000_000
    block = os.urandom(1_000_000)
    process = room.dsh("cat")
    digest, expected = hashlib.sha256(), hashlib.sha256()
    child = os.fork()
    assert process.stdin is not None
    assert process.stdout is not None
    if child == 0:
        try:
            process.stdout.close()
            for _ in range(size // len(block)):
                process.stdin.write(block)
            process.stdin.close()
        finally:
            os._exit(0)
    process.stdin.close()
    for _ in range(size // len(block)):
        expected.update(block)
    received = 0
    while chunk := process.stdout.read(1 << 20):
        received += len(chunk)
        digest.update(chunk)
    os.waitpid(child, 0)
    assert (process.wait(10), received, digest.hexdigest()) == (0, size, expected.hexdigest())


def test_a_reader_that_pauses_makes_the_command_wait(room: Room) -> None:
    """Back-pressure: nothing in between keeps more than a little."""
    process = room.dsh("sh", "-c", "head -c 50000000 /dev/zero; touch all-written")
    time.sleep(1.5)
    assert not (room.work / "all-written").exists()
    assert process.stdout is not None
    assert len(process.stdout.read()) == 50_000_000
    assert process.wait(10) == 0


def test_a_hundred_at_once(room: Room) -> None:
    processes = [room.dsh("sh", "-c", f"read x; echo $x {number}; exit {number}") for number in range(100)]
    for number, process in enumerate(processes):
        out, err = process.communicate(b"word\n", timeout=60)
        assert (process.returncode, out, err) == (number, b"word %d\n" % number, b"")


def test_a_burst_is_shared_equally(room: Room) -> None:
    done = room.sh("for i in $(seq 60); do dsh sh -c 'echo ${SSH_CONNECTION% *} ; sleep 1' & done; wait")
    counts = Counter(line.split()[2] for line in done.stdout.decode().splitlines())
    assert sum(counts.values()) == 60
    assert len(counts) == 3
    assert max(counts.values()) <= 1.3 * 20


# --- the dispatcher's own life ---


def test_many_first_uses_start_one_dispatcher(room: Room) -> None:
    assert room.project.inv("stop-dispatcher").returncode == 0
    done = room.sh("for i in 1 2 3 4; do dsh echo $i & done; wait")
    assert sorted(done.stdout.split()) == [b"1", b"2", b"3", b"4"], done.stderr
    listening = [path for path in room.socket.parent.glob(f"{room.socket.name[:-14]}*.sock") if path.exists()]
    assert listening == [room.socket]


def test_an_idle_dispatcher_ends(room: Room, rootless_lab: Lab, tmp_path: Path) -> None:
    known = {"ssh_config": str(rootless_lab.ssh_config), "known_hosts": str(rootless_lab.known_hosts)}
    project = project_for(rootless_lab, tmp_path / "idle", tmp_path, **known)
    assert project.inv("start-dispatcher", "--hosts", "lab", "--idle", "2").returncode == 0
    other = Room(project, tmp_path, room.programs)
    socket, pid = other.socket, other.pid
    process = subprocess.run(
        [str(room.programs / "dsh"), "--socket", str(socket), "sleep", "4"],
        cwd="/", stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    # While something runs it is not idle.
    assert process.returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists() and not socket.exists(), 10)


# --- make ---


def make_files(room: Room, bad: bool) -> None:
    for number in range(6):
        (room.work / f"f{number}.c").write_text(f"int f{number}(void) {{ return {number}; }}\n")
    if bad:
        (room.work / "f3.c").write_text("int f3(void) { return ; nonsense }\n")
    objects = " ".join(f"f{number}.o" for number in range(6))
    (room.work / "Makefile").write_text(f"all: {objects}\n\t@echo complete\n")


def test_make_compiles_over_the_hosts(room: Room) -> None:
    make_files(room, bad=False)
    done = room.sh('make -j4 CC="dsh gcc"')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"complete"), done.stderr
    theirs = {path.name: path.read_bytes() for path in room.work.glob("*.o")}
    assert room.sh("rm *.o; make").returncode == 0
    assert theirs == {path.name: path.read_bytes() for path in room.work.glob("*.o")}


def test_a_compile_error_stops_make(room: Room) -> None:
    make_files(room, bad=True)
    done = room.sh('make -j2 CC="dsh gcc"')
    assert done.returncode == 2
    assert b"f3.c:1" in done.stderr
    assert b"complete" not in done.stdout


# --- who, and where ---


def test_nobody_else_can_talk_to_the_dispatcher(room: Room) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    socket = room.socket
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert socket.stat().st_mode & 0o777 == 0o600
    program = f"""import os, socket
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
try:
    s.connect({str(socket)!r})
except PermissionError:
    print("refused")
else:
    try:
        s.sendall(b"\\0\\0\\0\\x0a1\\0about\\0\\0\\0")
        print("answered", s.recv(100))
    except (ConnectionResetError, BrokenPipeError):
        print("answered", b"")"""

    def stranger() -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert stranger() == "refused\n"
    # Also where somebody has opened the folder and the socket, the dispatcher looks who it is.
    folders = (socket.parent.parent, socket.parent)
    try:
        for path in folders:
            path.chmod(0o755)
        socket.chmod(0o666)
        assert stranger() == "answered b''\n"
    finally:
        socket.chmod(0o600)
        for path in folders:
            path.chmod(0o700)
    assert room.sh("dsh echo mine").stdout == b"mine\n"


def test_bytes_that_are_no_request_do_no_harm(room: Room) -> None:
    import socket as sockets

    for message in (
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05hello",
        b"\0\0\0\x03x\0y",
        b"GET / HTTP/1.0\r\n\r\n",
    ):
        with sockets.socket(sockets.AF_UNIX) as sock:
            sock.connect(str(room.socket))
            sock.sendall(message)
            sock.shutdown(sockets.SHUT_WR)
            sock.settimeout(10)
            while sock.recv(1000):
                pass
    assert room.sh("dsh echo fine").stdout == b"fine\n"


def test_outside_of_any_project_the_last_started_is_used(room: Room) -> None:
    assert room.project.inv("start-dispatcher").returncode == 0
    assert room.sh("cd /; dsh pwd").stdout == b"/\n"


# --- the tasks ---


def test_load_shows_every_host_the_best_first(room: Room) -> None:
    rows = room.project.json("load")
    assert sorted(row["host"] for row in rows) == ["lab01", "lab02", "lab03"]
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert all(row["memory_free"] <= row["memory"] and row["cpus"] >= 1 and row["age"] < 5 for row in rows)
    table = room.project.inv("load", "--hosts", "lab").stdout
    assert "virtual" in table
    assert "lab03" in table


def test_best_host_names_another_one_each_time(room: Room) -> None:
    names = [room.project.inv("best-host").stdout.strip() for _ in range(3)]
    assert set(names) <= {"lab01", "lab02", "lab03"}
    assert len(set(names)) > 1


def test_dispatch_is_dsh_with_invokes_flags(room: Room) -> None:
    done = room.project.inv("dispatch", "--verbose", "--", "sh", "-c", "cat; exit 5", stdin="in")
    assert (done.returncode, done.stdout) == (5, "in")
    assert re.fullmatch(r"dsh: sh runs on lab0[123]\n", done.stderr)
    assert room.project.inv("dispatch").returncode == 2


def test_no_host_below_the_limit_runs_here_only_where_allowed(room: Room) -> None:
    done = room.sh("dsh --max-load 0 sh -c 'echo $PPID'")
    assert done.returncode == 125 or done.stdout
    (room.project.root / "never.py").write_text("def score(host):\n    return float('inf')\n")
    assert room.project.inv("start-dispatcher", "--hosts", "lab", "--score", "never:score").returncode == 0
    try:
        refused = room.sh("dsh echo x")
        assert (refused.returncode, refused.stdout) == (125, b"")
        assert b"not chosen by the evaluation" in refused.stderr
        here = room.sh("echo in | dsh --or-local --env A=b sh -c 'cat; echo $A ${SSH_CONNECTION:-here}'")
        assert (here.returncode, here.stdout) == (0, b"in\nb here\n")
        assert room.sh("dsh --or-local no-such-program").returncode == 127
    finally:
        assert room.project.inv("stop-dispatcher").returncode == 0
        (room.project.root / ".roomful" / "dispatcher.json").unlink()
        assert room.project.inv("start-dispatcher", "--hosts", "lab").returncode == 0


def test_a_bad_evaluation_is_refused_at_once(room: Room) -> None:
    done = room.project.inv("start-dispatcher", "--hosts", "lab", "--score", "no_such_module:score")
    assert done.returncode == 2
    assert "no_such_module" in done.stderr


def test_json_of_best_host(room: Room) -> None:
    assert json.loads(room.project.inv("best-host", "--json").stdout)["host"].startswith("lab0")
