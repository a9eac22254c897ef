"""dsh's signals: they reach the command there, whenever they come; terminals, job control, and sudden ends."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from roomful import dsh
from tests.support.dispatcher import Room, room, running_room
from tests.support.lab import lab, rootless_lab
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree, wait_until_gone
from tests.support.terminal import read_all
from tests.support.waiting import wait_until

__all__ = ["lab", "room", "rootless_lab", "running_room"]


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1"])
def test_signals_reach_the_process_group_there(room: Room, name: str) -> None:
    child = f"trap 'echo child; exit' {name}; echo ready; while :; do sleep 0.05; done"
    script = f'trap "echo caught; exit 7" {name}; sh -c "{child}"; exit 9'
    process = room.dsh("sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    out, err = process.communicate(timeout=20)
    assert set(out.split()) == {b"caught", b"child"}
    assert process.returncode == 7, err


def test_an_interrupt_that_kills_is_told_as_the_shell_tells_it(room: Room) -> None:
    mark = new_mark()
    process = room.dsh("sleep", mark)
    wait_until(lambda: alive(mark, "sleep"), 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    wait_until_gone(mark, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_right_behind_the_request_is_not_lost(room: Room, number: int) -> None:
    """It overtakes the start of the command there."""
    for _ in range(5):
        mark = new_mark()
        with socket.socket(socket.AF_UNIX) as client, open(os.devnull, "r+b") as null:
            client.settimeout(20)
            client.connect(str(room.socket))
            streams = [null.fileno()] * 3
            asked = dsh.request(
                b"run", [b"stdin=no", b"cwd=" + os.fsencode(room.work)], argv=[b"sleep", mark.encode()]
            )
            socket.send_fds(client, [asked + bytes([number])], streams)
            assert dsh.receive(client, 6) == dsh.EXIT + (1).to_bytes(4, "big") + bytes([128 + number])
        assert not alive(mark)


def test_a_signal_before_anything_was_asked_for_ends_dsh_in_silence(tmp_path: Path) -> None:
    """As any program; not with an exception, nor with the signal's number where the request should stand."""
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as first:
        door.bind(str(tmp_path / "s"))
        door.listen(0)
        first.connect(str(tmp_path / "s"))
        argv = [sys.executable, str(dsh.__file__), "--socket", str(tmp_path / "s"), "true"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
            # Nobody takes it in, and there is no room to wait.
            wait_until(lambda: "unix" in Path(f"/proc/{process.pid}/wchan").read_text(), 10)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10) == (None, b"")
            assert process.returncode == -signal.SIGINT


def test_a_signal_just_before_a_wait_is_not_overslept() -> None:
    """Python has taken it in already, and calls our handler only after the call that waits."""
    program = """import _thread, socket, threading, time
from roomful import dsh
ours, theirs = socket.socketpair()
def interrupt():
    time.sleep(0.2)
    _thread.interrupt_main(2)
    theirs.settimeout(5)
    print(theirs.recv(1))
    theirs.sendall(b"12345")
threading.Thread(target=interrupt).start()
dsh.forward_signals(ours)
print(dsh.receive(ours, 5))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, b"b'\\x02'\nb'12345'\n"), done.stderr


def test_ctrl_c_while_files_travel_ends_that(room: Room) -> None:
    here, there = room.work / "here", room.work / "there"
    here.mkdir()
    with open(here / "large", "wb") as file:
        file.truncate(8 << 30)
    mark = new_mark()
    argv = ["--sync", "--chdir", f"{here}={there}", "sleep", mark]
    process = subprocess.Popen([room.programs / "dsh", *argv], cwd=here, env=room.environment)
    wait_until(lambda: [path for path in there.glob(".roomful-incoming-*/*") if path.stat().st_size], 20)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert not alive(mark)
    assert [path for path in there.rglob("*") if path.is_file()] == []
    wait_until(lambda: not list(there.glob(".*")), 5)


def test_a_stopped_client_stops_the_command(room: Room) -> None:
    mark = new_mark()
    process = room.dsh("sleep", mark)

    def state() -> str:
        (pid,) = alive(mark, "sleep")
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_until(lambda: len(alive(mark, "sleep")) == 1 and state() == "S", 10)
    process.send_signal(signal.SIGTSTP)
    wait_until(lambda: state() == "T", 5, state)
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", 5)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: state() == "S", 5, state)


def test_a_client_that_dies_takes_the_whole_process_tree_with_it(room: Room) -> None:
    mark = new_mark()
    process = room.dsh("sh", "-c", TREE.format(mark=mark) + " & wait")
    wait_for_tree(mark)
    process.kill()
    wait_until_gone(mark, 3)


def test_a_dispatcher_that_is_killed_leaves_nothing_behind(room: Room) -> None:
    mark = new_mark()
    process = room.dsh("sh", "-c", TREE.format(mark=mark) + " & wait")
    wait_for_tree(mark)
    os.kill(room.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (125, b"dsh: the dispatcher has ended, and the command with it\n")
    wait_until_gone(mark, 8)
    # The next one starts it again, with the hosts of the last time.
    assert room.sh("dsh echo back").stdout == b"back\n"


# --- Ctrl-C in make ---


def test_ctrl_c_during_a_compile_ends_it_there(room: Room) -> None:
    mark = new_mark()
    (room.work / "Makefile").write_text(f"all: a b\na b:\n\tdsh sleep {mark}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.work)
        os.execvpe("make", ["make", "-j2"], dict(room.environment))
    try:
        wait_until(lambda: len(alive(mark, "sleep")) == 2, 10)
        os.write(terminal, b"\x03")
        screen = read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (2, 130, -2), screen
        wait_until_gone(mark, 3)
    finally:
        os.close(terminal)


def test_ctrl_c_leaves_no_half_object_file(room: Room) -> None:
    mark = new_mark()
    functions = [f"double g{n}(double x) {{ return x * {n} + g{n - 1}(x); }}\n" for n in range(1, 20_000)]
    sources = [room.work / f"{letter}{mark}.c" for letter in "ab"]
    for source in sources:
        source.write_text("double g0(double x) { return x; }\n" + "".join(functions))
    (room.work / "Makefile").write_text("all: " + " ".join(path.stem + ".o" for path in sources) + "\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.work)
        os.execvpe("make", ["make", "-j2", "CC=dsh gcc", "CFLAGS=-O1 -pipe"], dict(room.environment))
    try:
        # The compiler and, because of -pipe, the assembler that writes the object file.
        wait_until(lambda: len(alive(mark, "cc1")) == 2 and len(alive(mark, "as")) == 2, 15)
        os.write(terminal, b"\x03")
        screen = read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (2, 130, -2), screen
        wait_until_gone(mark, 3)
        assert not list(room.work.glob("*.o"))
    finally:
        os.close(terminal)


# --- terminals ---


def test_a_terminals_input_is_passed_on(room: Room) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.work)
        os.execve(room.programs / "dsh", ["dsh", "sh", "-c", "read a; echo got:$a; cat"], dict(room.environment))
    try:
        os.write(terminal, b"one\n")
        screen = read_all(terminal, lambda screen: b"got:one" in screen)
        os.write(terminal, b"two\n\x04")
        screen += read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, screen
        # Once echoed as it was typed, once written by cat.
        assert screen.count(b"two") == 2
    finally:
        os.close(terminal)


def test_a_terminals_input_is_passed_on_after_a_note(room: Room) -> None:
    """With -v the dispatcher speaks before the command has ended."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.work)
        os.execve(room.programs / "dsh", ["dsh", "-v", "sh", "-c", "read a; echo got:$a"], dict(room.environment))
    try:
        screen = read_all(terminal, lambda screen: b"sh runs on" in screen)
        os.write(terminal, b"one\n")
        screen += read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, screen
        assert b"got:one" in screen
    finally:
        os.close(terminal)


def test_what_the_shell_has_read_is_not_waited_for() -> None:
    """What poll saw can be gone: the shell reads the terminal by turns with us."""
    ours, theirs = pty.openpty()
    program = "from roomful.dsh_terminal import Terminal; Terminal().read(); print('went on')"
    done = subprocess.run([sys.executable, "-c", program], stdin=theirs, capture_output=True, timeout=20, check=False)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, b"went on\n"), done.stderr


def test_a_read_in_the_background_stops_nobody() -> None:
    """The terminal can become another's between the look and the read."""
    program = """import os, sys
from roomful.dsh_terminal import Terminal
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    terminal = Terminal()
    terminal.read(), terminal.read(), terminal.read()
    os._exit(40 + (terminal.ours >= 0))
_, status = os.waitpid(child, os.WUNTRACED)
print("stopped" if os.WIFSTOPPED(status) else os.WEXITSTATUS(status))
if os.WIFSTOPPED(status):
    os.kill(child, 9)
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    try:
        screen = read_all(terminal)
        os.waitpid(pid, 0)
        # Its input goes on.
        assert screen.split() == [b"41"]
    finally:
        os.close(terminal)


def test_a_terminal_of_no_session_is_read(room: Room) -> None:
    """As a console or a container has it: a terminal that controls nobody."""
    ours, theirs = pty.openpty()
    process = room.dsh("head", "-1", stdin=theirs, start_new_session=True)
    os.write(ours, b"typed\n")
    out, err = process.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, out) == (0, b"typed\n"), err


def test_an_interactive_shell_stops_and_resumes_it(room: Room) -> None:
    mark = new_mark()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(room.work)
        os.execvpe("bash", ["bash", "--norc", "-i"], {**room.environment, "PS1": "$ "})

    def state() -> str:
        found = alive(mark, "sleep")
        return Path(f"/proc/{found[0]}/stat").read_text().rpartition(")")[2].split()[0] if found else ""

    try:
        os.write(terminal, f"dsh sleep {mark}\n".encode())
        wait_until(lambda: state() == "S", 10, state)
        os.write(terminal, b"\x1a")
        wait_until(lambda: state() == "T", 20, state)
        screen = read_all(terminal, lambda screen: b"Stopped" in screen)
        os.write(terminal, b"bg\n")
        wait_until(lambda: state() == "S", 20, state)
        os.write(terminal, b"fg\n")
        wait_until(lambda: os.tcgetpgrp(terminal) != pid, 20)
        os.write(terminal, b"\x03")
        wait_until_gone(mark, 20)
        os.write(terminal, b"echo code $?\n")
        screen += read_all(terminal, lambda screen: b"code 130" in screen)
        assert b"code 130" in screen
        os.write(terminal, b"exit\n")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
