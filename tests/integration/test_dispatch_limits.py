"""dsh at its limits: many and long commands, few descriptors, strange bytes, closed streams, stopped shells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.dispatcher import Room, install
from tests.support.inv import project_for
from tests.support.lab import lab, rootless_lab
from tests.support.sleepers import alive, new_mark, wait_until_gone
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]


@pytest.fixture(scope="module")
def room(rootless_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("dispatch")
    known = {"ssh_config": str(rootless_lab.ssh_config), "known_hosts": str(rootless_lab.known_hosts)}
    project = project_for(rootless_lab, folder / "project", folder / "home", **known)
    work = folder / "project" / "work"
    work.mkdir()
    room = Room(project, work, install(folder / "python"))
    start(room)
    yield room
    room.close()


def start(room: Room) -> None:
    done = room.project.inv("start-dispatcher", "--hosts", "lab")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)


def test_a_very_long_command_line_arrives_whole(room: Room) -> None:
    for size in (100_000, 1_500_000):
        words = ["x" * 999] * (size // 1000)
        process = room.dsh("sh", "-c", 'echo $# "$(printf %s "$*" | cksum)"', "sh", *words)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        expected = subprocess.run(["cksum"], input=" ".join(words).encode(), capture_output=True, check=True).stdout
        assert out == b"%d %s" % (len(words), expected)


def test_a_large_environment_arrives_whole(room: Room) -> None:
    names = [f"V{number}" for number in range(100)]
    values = dict.fromkeys(names, "v" * 1000)
    options = " ".join(f"--env {name}" for name in names)
    export = "; ".join(f"export {name}={value}" for name, value in values.items())
    done = room.sh(f"{export}; dsh {options} sh -c \"env | grep -c '^V[0-9]*=v\\{{1000\\}}$'\"")
    assert (done.stdout, done.stderr) == (b"100\n", b"")


def test_names_that_are_no_utf8_are_passed_byte_for_byte(room: Room) -> None:
    folder = os.fsencode(room.work) + b"/\xff\xfe \n'"
    os.mkdir(folder)
    argv = [os.fsencode(room.programs / "dsh"), b"sh", b"-c"]
    argv += [b'pwd; printf %s "$1" > "$1"; cat "$1"', b"sh", b"\x80\xc3("]
    environment = {**{os.fsencode(k): os.fsencode(v) for k, v in room.environment.items()}, b"PWD": folder}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, folder + b"\n\x80\xc3("), done.stderr
    assert os.listdir(folder) == [b"\x80\xc3("]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("dsh cat <&-", 0),
        ("dsh echo x >&-", 0),
        ("dsh sh -c 'echo x >&2' 2>&-", 0),
        ("dsh sh -c 'cat; echo x; echo y >&2' <&- >&- 2>&-", 0),
        ("dsh sh -c 'echo x >&2' 2>/dev/full", 125),
        ("dsh head -c 3000000 /dev/zero > /dev/full", 125),
    ],
)
def test_closed_and_full_streams(room: Room, line: str, code: int) -> None:
    assert room.sh(line).returncode == code


def test_twenty_at_once_whose_dispatcher_is_killed(room: Room) -> None:
    mark = new_mark()
    running = [room.dsh("sleep", mark) for _ in range(20)]
    wait_until(lambda: len(alive(mark, "sleep")) == 20, 20)
    os.kill(room.pid, signal.SIGKILL)
    for process in running:
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (125, b"dsh: the dispatcher has ended, and the command with it\n")
    wait_until_gone(mark, 8)
    assert room.sh("dsh echo back").stdout == b"back\n"


def has_socket(process: subprocess.Popen[bytes]) -> bool:
    """Whether a dsh has come as far as the dispatcher's door."""
    folder = f"/proc/{process.pid}/fd"
    return any(os.readlink(f"{folder}/{fd}").startswith("socket:") for fd in os.listdir(folder))


def test_where_few_files_may_be_open_those_that_do_not_fit_in_wait(room: Room) -> None:
    assert room.project.inv("stop-dispatcher").returncode == 0
    line = f"ulimit -n 120; cd {room.project.root}; {sys.executable} -m invoke start-dispatcher --hosts lab"
    started = room.sh(line)
    assert started.returncode == 0, started.stderr
    try:
        limits = Path(f"/proc/{room.pid}/limits").read_text()
        assert next(x for x in limits.splitlines() if x.startswith("Max open files")).split()[4] == "120"
        processes = [room.dsh("head", "-1") for _ in range(30)]
        # None of them can end before it has input.
        wait_until(lambda: all(has_socket(process) for process in processes), 30)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"line\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, b"line\n", b"")
    finally:
        assert room.project.inv("stop-dispatcher").returncode == 0
        start(room)


def test_a_dispatcher_that_another_user_has_laid_out_is_not_used(room: Room, tmp_path: Path) -> None:
    """Above our folder, as in /tmp: it would get our command, our streams and our input."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    (tmp_path / ".roomful").mkdir()
    trap = tmp_path / ".roomful" / "dispatcher"
    trap.symlink_to(room.socket)
    (tmp_path / "tasks.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    where = {**room.environment, "PWD": str(tmp_path)}
    argv = [str(room.programs / "dsh"), "-n", "echo", "x"]

    def dsh() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(argv, cwd=tmp_path, env=where, capture_output=True, check=False)

    # The same link of our own is followed; then it is another's, which leads to a socket that nobody listens on.
    assert dsh().stdout == b"x\n"
    trap.unlink()
    trap.symlink_to(tmp_path / "none.sock")
    os.chown(trap, 65534, 65534, follow_symlinks=False)
    assert dsh().returncode in (0, 125)
    assert not (tmp_path / "was-run").exists()


def test_a_socket_that_another_user_listens_on_is_not_spoken_to(room: Room, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    tmp_path.chmod(0o777)
    program = f"""import os, socket
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.bind({str(tmp_path / "s")!r}); s.listen(); print("listens", flush=True)
print(s.accept()[0].recv(100))"""
    for folder in tmp_path.parents:
        # Those that pytest has made: one more where tests run side by side.
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"listens\n"
        done = room.sh(f"dsh --socket {tmp_path}/s echo secret")
        assert (done.returncode, done.stderr.decode()) == (
            125, f"dsh: the dispatcher at {tmp_path}/s is another user's\n"
        )  # fmt: skip
        assert other.stdout.readline() == b"b''\n"


def test_folders_for_temporary_files_are_not_needed(room: Room) -> None:
    """Set to what cannot be written, as on a machine whose XDG_RUNTIME_DIR has gone with the login."""
    away = "TMPDIR=/proc/none XDG_RUNTIME_DIR=/proc/none"
    line = f"{away} {sys.executable} -m invoke start-dispatcher --hosts lab"
    try:
        assert room.project.inv("stop-dispatcher").returncode == 0
        started = room.sh(f"cd {room.project.root} && {line}")
        assert started.returncode == 0, started.stderr
        there = room.work.parent / "there"
        done = room.sh(f"{away} dsh --sync --chdir {room.work}={there} pwd")
        assert (done.returncode, done.stdout) == (0, f"{there}\n".encode()), done.stderr
    finally:
        room.project.inv("stop-dispatcher")
        start(room)


def test_a_daemon_that_holds_the_output_is_waited_for(room: Room) -> None:
    """As ssh does; Ctrl-C frees, and takes it along."""
    mark = new_mark()
    process = room.dsh("sh", "-c", f"setsid sleep {mark} & echo started")
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    wait_until(lambda: alive(mark, "sleep"), 10)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    wait_until_gone(mark, 5)


def test_a_host_key_that_is_added_later_is_taken_up(rootless_lab: Lab, room: Room, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    config = tmp_path / "ssh_config"
    config.write_text(rootless_lab.ssh_config.read_text().replace(str(rootless_lab.known_hosts), str(known)))
    settings = {"ssh_config": str(config), "known_hosts": str(known)}
    project = project_for(rootless_lab, tmp_path / "project", tmp_path, **settings)
    names = project.root / "host_lists" / "lab.txt"
    names.write_text(names.read_text().replace(str(rootless_lab.ssh_config), str(config)))
    new = Room(project, tmp_path, room.programs)
    try:
        done = project.inv("start-dispatcher", "--hosts", "lab")
        assert (done.returncode, done.stderr.count("host-key: unknown")) == (1, 3), done.stderr
        assert b"host-key" in new.sh(f"dsh --socket {new.socket} true").stderr
        known.write_bytes(rootless_lab.known_hosts.read_bytes())
        wait_until(lambda: all(not row["unusable"] for row in new.loads()), 20, new.loads)
        assert new.sh(f"dsh --socket {new.socket} echo in").stdout == b"in\n"
    finally:
        new.close()


def test_a_folder_of_sockets_that_is_anothers_is_refused_and_an_open_one_closed(room: Room) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a folder of another user's")
    folder, inv = room.socket.parent, f"{sys.executable} -m invoke"
    script = f"""cd {room.project.root}
mount -t tmpfs -o uid=65534,mode=755 none {folder} && {inv} start-dispatcher; echo $?
umount {folder} && mount -t tmpfs -o mode=777 none {folder} && {inv} start-dispatcher --quiet; echo $?
stat -c %a {folder}; {inv} stop-dispatcher"""
    argv = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(argv, env=room.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1\n0\n700\n", done
    assert "not a folder of ours" in done.stderr
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr


def test_dsh_follows_when_the_host_list_has_changed(room: Room) -> None:
    names = room.project.root / "host_lists" / "lab.txt"
    before, text = room.socket, names.read_text()
    names.write_text("\n".join(line for line in text.splitlines() if not line.startswith("lab03")) + "\n")
    try:
        assert {row["host"] for row in room.project.json("load")} == {"lab01", "lab02"}
        assert room.socket != before
        hosts = {room.sh("dsh -v true").stderr.split()[-1] for _ in range(4)}
        assert hosts == {b"lab01", b"lab02"}
    finally:
        names.write_text(text)
        start(room)
    assert room.socket == before
