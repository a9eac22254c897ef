"""`inv run` and `inv script` as their users call them: what they print, how they end, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful.lab import Lab
from roomful.run import Job
from tests.support.lab import lab, rootless_lab, settings_for
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]

ROOT = Path(__file__).parents[2]
Inv = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Path:
    settings_for(rootless_lab, tmp_path)
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
    return tmp_path


@pytest.fixture
def inv(project: Path) -> Inv:
    def call(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-m", "invoke", *words]
        return subprocess.run(argv, cwd=project, input=stdin, capture_output=True, timeout=60, check=False)

    return call


def test_lines_come_with_their_host(inv: Inv) -> None:
    done = inv("run", "--hosts", "lab", "--", "printf 'a\\nb'; echo oops >&2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert sorted(lines) == [f"lab0{i}: {word}" for i in (1, 2, 3) for word in "ab"]
    assert b"lab01: oops\n" in done.stderr
    assert b"3 hosts: 3 ok, 0 failed, 0 unreachable" in done.stderr


def test_several_words_are_an_argv_and_one_is_a_shell_line(inv: Inv) -> None:
    assert inv("run", "--hosts", "lab01", "--", "echo", "a  b", "$HOME;", "'").stdout == b"lab01: a  b $HOME; '\n"
    assert inv("run", "--hosts", "lab01", "--", "echo a  b; exit 0").stdout == b"lab01: a b\n"


def test_what_a_host_said_before_its_time_was_up_is_kept(inv: Inv, project: Path) -> None:
    words = ("run", "--hosts", "lab01", "--timeout", "1", "--outdir", "late")
    command = ("--", "echo why; printf oops >&2; sleep 30")
    done = inv(*words, "--json", *command)
    (row,) = json.loads(done.stdout)["hosts"]
    assert (row["reason"], row["exit_code"]) == ("command-timeout", None)
    assert (row["stdout"], row["stderr"]) == ("why\n", "oops")
    assert (project / "late" / "lab01.out").read_text() == "why\n"
    assert inv(*words, "--gather", *command).stdout.endswith(b"\nlab01\n---------------\nwhy\noops\n")


def test_two_hosts_do_not_write_into_one_file(inv: Inv, project: Path) -> None:
    done = inv("run", "--hosts", "a.x_b,a.x@b", "--outdir", "outs", "--", "true")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"a.x_b and a.x@b would share outs/a.x_b.out" in done.stderr
    assert not (project / "outs").exists()


def test_words_that_are_no_text_arrive_byte_for_byte_and_can_be_pasted(inv: Inv, project: Path) -> None:
    (project / "show.sh").write_text('printf %s "$1"; exit 3\n')
    done = inv("script", "show.sh", "--hosts", "lab01", "--", os.fsdecode(b"a\xff'\xc3\xbc"))
    assert done.stdout == b"lab01: a\xff'\xc3\xbc\n"
    again = done.stderr.decode().splitlines()[-1].partition(" -- ")[2]
    assert subprocess.run(["bash", "-c", f"printf %s {again}"], capture_output=True, check=True).stdout == (
        b"a\xff'\xc3\xbc"
    )


def test_gather_folds_what_is_the_same(inv: Inv, rootless_lab: Lab) -> None:
    done = inv("run", "--hosts", "lab", "--gather", "--", "echo same; echo same >&2")
    assert done.stdout.decode() == "---------------\nlab01,lab02,lab03 (3)\n---------------\nsame\nsame\n"


def test_diff_shows_who_differs(inv: Inv) -> None:
    line = 'case "$(head -c1 /dev/urandom | wc -c)" in *) echo one; test -e "$HOME/odd" && echo extra; true; esac'
    assert inv("run", "--hosts", "lab02", "--", 'touch "$HOME/odd"').returncode == 0
    try:
        out = inv("run", "--hosts", "lab", "--diff", "--", line).stdout.decode()
    finally:
        inv("run", "--hosts", "lab02", "--", 'rm "$HOME/odd"')
    assert out.startswith("---------------\nlab01,lab03 (2)\n---------------\none\n")
    assert out.endswith(" one\n+extra\n")


def test_failures_are_named_and_can_be_tried_again(inv: Inv) -> None:
    done = inv("run", "--hosts", "lab,127.0.0.1:1", "--connect-timeout", "2", "--", "exit 3")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "lab01: failed, exit 3" in said
    assert "127.0.0.1:1: unreachable, refused: nothing listens on 127.0.0.1:1" in said
    assert "again on these: inv run --hosts=lab01,lab02,lab03,127.0.0.1:1 --connect-timeout=2 -- 'exit 3'" in said
    assert inv("run", "--hosts", "lab,127.0.0.1:1", "--max-failed", "25%", "--", "true").returncode == 0


def test_json_is_one_document(inv: Inv) -> None:
    document = json.loads(inv("run", "--hosts", "lab", "--json", "--", "echo hi").stdout)
    assert [(host["stdout"], host["exit_code"]) for host in document["hosts"]] == [("hi\n", 0)] * 3


def test_stdin_is_a_file_and_never_the_callers(inv: Inv, project: Path) -> None:
    (project / "input").write_bytes(b"\xff\0 data\n" * 20_000)
    done = inv("run", "--hosts", "lab01", "--stdin", "input", "--", "cksum | tee /dev/null; exit 0")
    expected = subprocess.run(["cksum"], input=(project / "input").read_bytes(), capture_output=True, check=True)
    assert done.stdout == b"lab01: " + expected.stdout
    assert inv("run", "--hosts", "lab01", "--", "cat", stdin=b"not for you\n").stdout == b""
    loop = (
        f"printf '1\\n2\\n3\\n' | while read -r x; do {sys.executable} -m invoke run --hosts lab01 -- echo $x; done"
    )
    out = subprocess.run(["sh", "-c", loop], cwd=project, capture_output=True, timeout=60, check=True).stdout
    assert out == b"lab01: 1\nlab01: 2\nlab01: 3\n"


def test_outdir(inv: Inv, project: Path) -> None:
    assert inv("run", "--hosts", "lab", "--outdir", "outs", "--", "echo o; echo e >&2").returncode == 0
    assert (project / "outs" / "lab02.out").read_bytes() == b"o\n"
    assert (project / "outs" / "lab02.err").read_bytes() == b"e\n"


def test_a_command_that_takes_too_long_is_ended_there(inv: Inv, project: Path) -> None:
    done = inv("run", "--hosts", "lab01", "--timeout", "1", "--", f"sleep 50.{os.getpid()}")
    assert done.returncode == 1
    assert b"command-timeout" in done.stderr
    wait_until(lambda: not _running(f"sleep 50.{os.getpid()}"), 5, "the command lives on")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill-9", "ctrl-c-twice"])
def test_nothing_is_left_running_when_the_controller_goes_away(project: Path, how: signal.Signals) -> None:
    mark = f"5{os.getpid()}.{how}"
    line = f"(sleep {mark} & sleep {mark}; true) | cat"
    argv = [sys.executable, "-m", "invoke", "run", "--hosts", "lab", "--", line]
    with subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as controller:
        wait_until(lambda: len(_running(f"sleep {mark}")) == 6, 15, lambda: _running(mark))
        controller.send_signal(how)
        if how == signal.SIGINT:
            assert controller.stderr is not None
            said = b""
            while b"3 pending: lab01,lab02,lab03; Ctrl-C again stops them" not in said:
                said += controller.stderr.readline()
            assert len(_running(f"sleep {mark}")) == 6
            controller.send_signal(how)
        controller.wait(15)
    assert controller.returncode == (130 if how == signal.SIGINT else -9)
    wait_until(lambda: not _running(f"sleep {mark}"), 6, lambda: _running(mark))


def test_a_command_that_waits_for_all_its_children_ends(inv: Inv) -> None:
    """The watcher is no child of it: such a command would wait for it, and it for the command."""
    line = "import os\ntry:\n while True: os.wait()\nexcept ChildProcessError: print('none left')"
    done = inv("run", "--hosts", "lab01", "--timeout", "10", "--", "python3", "-c", line)
    assert (done.returncode, done.stdout) == (0, b"lab01: none left\n"), done.stderr


def test_what_a_command_leaves_running_on_purpose_goes_on(inv: Inv) -> None:
    mark = f"6{os.getpid()}.5"
    done = inv("run", "--hosts", "lab01", "--", f"sleep {mark} >/dev/null 2>&1 & echo $!")
    pid = int(done.stdout.removeprefix(b"lab01: "))
    try:
        # Nothing of ours is left there beside it: its group has one process once the watcher has seen our end.
        wait_until(lambda: _group_of(pid) == [pid], 5, lambda: _group_of(pid))
        assert _running(f"sleep {mark}")
    finally:
        os.kill(pid, signal.SIGKILL)


def _group_of(pid: int) -> list[int]:
    group = os.getpgid(pid)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # proc(5): state, parent, process group.
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def test_a_signal_is_named(inv: Inv) -> None:
    done = inv("run", "--hosts", "lab01", "--json", "--", "python3", "-c", "import os; os.kill(os.getpid(), 15)")
    (host,) = json.loads(done.stdout)["hosts"]
    assert (done.returncode, host["reason"], host["exit_code"]) == (1, "signal 15", 143)


def test_only_the_commands_group_ends_where_a_server_starts_it_in_its_own() -> None:
    """Not every SSH server makes a command the leader of a group; ending its group would end the server."""
    mark = f"7{os.getpid()}.5"
    argv = ["sh", "-c", 'sh -c "$0" "$@"; echo "server goes on"', *Job("sleep " + mark).argv()[2:]]
    server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    wait_until(lambda: _running(f"sleep {mark}"), 5, "the command does not start")
    # Closes the connection's end: its standard input.
    out, _ = server.communicate(timeout=10)
    assert (server.returncode, out) == (0, b"server goes on\n")
    assert not _running(f"sleep {mark}")


def _running(words: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if line == words or (" " not in words and words in line):
            found.append(line)
    return found


class TestScript:
    def test_it_runs_with_its_interpreter_and_arguments_and_is_gone(self, inv: Inv, project: Path) -> None:
        (project / "census.py").write_text("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:], sys.argv[0])\n")
        done = inv("script", "census.py", "a b", "--hosts", "lab01", "--", "--depth", "3")
        line = done.stdout.decode()
        assert line.startswith("lab01: ['a b', '--depth', '3'] /"), done.stderr
        assert not Path(line.split()[-1]).exists()

    def test_it_is_gone_too_when_it_was_ended(self, inv: Inv, project: Path) -> None:
        (project / "slow.sh").write_text(f"echo $0; sleep 8{os.getpid()}.5\n")
        done = inv("script", "slow.sh", "--hosts", "lab01", "--timeout", "1")
        assert b"command-timeout" in done.stderr
        path = Path(done.stdout.decode().split()[-1])
        wait_until(lambda: not path.parent.exists(), 5, lambda: list(path.parent.iterdir()))

    def test_without_a_first_line_it_is_sh(self, inv: Inv, project: Path) -> None:
        (project / "x.sh").write_text("cat; echo $1; exit 4\n")
        (project / "in").write_text("from stdin\n")
        done = inv("script", "x.sh", "7", "--hosts", "lab01", "--stdin", "in")
        assert (done.returncode, done.stdout) == (1, b"lab01: from stdin\nlab01: 7\n")
        assert b"exit 4" in done.stderr

    def test_detached_it_goes_on_after_we_left(self, inv: Inv, project: Path) -> None:
        (project / "slow.sh").write_text("sleep 1; echo done $1\n")
        start = time.monotonic()
        done = inv("script", "slow.sh", "x", "--hosts", "lab01", "--detach")
        pid, log = done.stdout.decode().removeprefix("lab01: ").split()
        wait_until(lambda: Path(log).read_text() == "done x\n", 10, lambda: (done, Path(log).read_text()))
        assert time.monotonic() - start >= 1
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5, "the script did not end")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--hosts", "lab"], "no command given"),
        (["run", "--hosts", "labb", "--", "true"], "did you mean lab?"),
        (["run", "--hosts", "lab", "--stdin", "none", "--", "true"], "none: cannot read"),
        (["run", "--hosts", "lab", "--max-failed", "x", "--", "true"], "--max-failed"),
        (["run", "--hosts", "lab", "--retry=-1", "--", "true"], "--retry: bad number -1; write how many times"),
        (["run", "--hosts", "lab", "--timeout=-2", "--", "true"], "--timeout: bad time -2; write seconds above 0"),
        (["run", "--hosts", "lab", "--timeout=nan", "--", "true"], "--timeout: bad time nan"),
        (["script", "tasks.py", "--hosts", "lab", "--connect-timeout=-1"], "--connect-timeout: bad time -1"),
        (["run", "--hosts", "lab", "--gather", "--diff", "--", "true"], "--gather and --diff exclude each other"),
        (["run", "--hosts", "lab", "--diff", "--json", "--", "true"], "--diff and --json exclude each other"),
        (["run", "--hosts", "lab", "--outdir", "tasks.py", "--", "true"], "tasks.py: cannot write into this folder"),
        (["run", "--hosts", "lab", "--outdir", "/proc/x", "--", "true"], "/proc/x: cannot write into this folder"),
        (["run", "true", "--hosts", "lab"], "a command stands after --: inv run ... -- true"),
        (["script", "--hosts", "lab"], "no script given"),
        (["shell"], "no host given; name one"),
        (["push-toolbox"], "no machine given; name the one"),
        (
            ["deploy", "--hosts", "lab"],
            "resources: no SOURCE given, and there is no such folder; name what to deploy",
        ),
        (["script", "none.sh", "--hosts", "lab"], "none.sh: cannot read the script"),
    ],
)
def test_bad_input_is_one_line_and_code_2(inv: Inv, words: list[str], said: str) -> None:
    done = inv(*words)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert done.stdout == b""


def test_a_million_lines_come_whole(inv: Inv) -> None:
    done = inv("run", "--hosts", "lab01", "--", "seq 1000000")
    assert done.stdout.count(b"\n") == 1_000_000
    assert done.stdout.endswith(b"lab01: 1000000\n")


def test_a_mistyped_host_is_met_with_what_was_perhaps_meant(inv: Inv, project: Path) -> None:
    (project / "host_lists" / "rack.txt").write_text("machine-01\n")
    done = inv("run", "--hosts", "machine-0l", "--", "true")
    assert done.returncode == 1
    said = "no host list has that name either: machine-0l; the lists are: lab, rack; did you mean machine-01?\n"
    assert done.stderr.decode().endswith(said)


def test_hosts_that_may_come_back_are_tried_again_and_others_not(inv: Inv, project: Path, rootless_lab: Lab) -> None:
    config = rootless_lab.ssh_config.read_text().splitlines(keepends=True)
    unknown = ["UserKnownHostsFile /dev/null\n", *(line for line in config if "KnownHosts" not in line)]
    (project / "unknown").write_text("".join(unknown))
    line = (project / "host_lists" / "lab.txt").read_text().splitlines()[-1]
    (project / "host_lists" / "two.txt").write_text(
        f"127.0.0.1:1\n{line.replace(str(rootless_lab.ssh_config), 'unknown')}\n"
    )
    done = inv("run", "--hosts", "two", "--retry", "2", "--", "true")
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert said[:2] == ["trying again: 127.0.0.1:1"] * 2, said
    assert said[2] == "2 hosts: 0 ok, 0 failed, 2 unreachable"
    assert "reasons: 1 refused, 1 host-key" in said


def test_nobody_is_tried_again_after_an_interrupt(project: Path) -> None:
    mark = f"9{os.getpid()}.5"
    argv = [
        sys.executable,
        "-m",
        "invoke",
        "run",
        "--hosts",
        "127.0.0.1:1,lab01",
        "--retry",
        "9",
        "--",
        f"sleep {mark}",
    ]
    with subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as controller:
        wait_until(lambda: _running(f"sleep {mark}"), 15, "the command does not start")
        controller.send_signal(signal.SIGINT)
        assert controller.stderr is not None
        while b"1 pending: lab01" not in controller.stderr.readline():
            pass
        controller.send_signal(signal.SIGINT)
        said = controller.stderr.read().decode()
        controller.wait(15)
    assert controller.returncode == 130
    assert "trying again" not in said
    assert "2 hosts: 0 ok, 1 failed, 1 unreachable" in said
