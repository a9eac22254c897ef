"""Commands of an experiment on real hosts: how they begin, are fed, and end; files that go along."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from roomful.experiments import (
    CommandFailed,
    ProcessGroup,
    ReturnCode,
    ServerList,
    log,
    sleep,
)
from tests.support.experiments import Kept, Perform, failure, ok, perform, servers, settings
from tests.support.lab import lab, rootless_lab
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree

__all__ = ["lab", "perform", "rootless_lab", "servers", "settings"]


def test_a_command_has_its_folder_environment_and_exit_code(perform: Perform) -> None:
    out, err = Kept(), Kept()

    def experiment(servers: ServerList) -> None:
        servers.cd("/usr")
        servers[0].cd("/usr/lib")
        command = servers[0].run_cmd("pwd; echo $N; echo {1..3}; echo no >&2; exit 4", out, err, env={"N": 8})
        assert command.wait() == 4
        assert command.wait(block=False) == 4
        assert command.pid > 1
        assert servers[1].run_cmd("pwd", stdout=out).wait() == 0
        servers[1].cd("~")
        assert servers[1].run_cmd('test "$PWD" = "$HOME"').wait() == 0

    ok(perform(experiment, raise_on_rc=False))
    assert out == ["/usr/lib\n", "8\n", "1 2 3\n", "/usr\n"]
    assert err == ["no\n"]


def test_the_lists_working_directory_is_where_commands_begin(perform: Perform, servers: ServerList) -> None:
    out = Kept()

    def experiment(servers: ServerList) -> None:
        for server in servers[:1]:
            server.run_cmd("pwd", stdout=out).wait()
            server.cd("/")

    ok(perform(experiment, experiment, servers=ServerList(servers, working_directory="/usr/lib")))
    assert out == ["/usr/lib\n"] * 2


def test_an_exit_code_ends_the_experiment_at_once(perform: Perform) -> None:
    mark = new_mark()

    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd(TREE.format(mark=mark))
        wait_for_tree(mark)
        servers[1].run_cmd("sleep 0.2; echo 'no such thing' >&2; exit 3")
        sleep(60)

    begin = time.monotonic()
    expected = "lab02: \"sleep 0.2; echo 'no such thing' >&2; exit 3\" ended with 3: no such thing"
    assert failure(perform(experiment)) == expected
    assert time.monotonic() - begin < 10
    assert alive(mark) == []


def test_an_exit_code_that_was_not_looked_at_still_fails_it(perform: Perform) -> None:
    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd("exit 3")
        try:
            sleep(60)
        except CommandFailed:
            log("swallowed")

    assert "ended with 3" in failure(perform(experiment))


def test_kill_and_expected_signals_are_no_failures(perform: Perform) -> None:
    mark = new_mark()

    def experiment(servers: ServerList) -> None:
        yes = servers[0].run_cmd("yes > /dev/null")
        tree = servers[0].run_cmd(TREE.format(mark=mark))
        wait_for_tree(mark)
        assert yes.kill() == -signal.SIGKILL
        assert tree.kill() == -signal.SIGKILL
        sleep(0.1)
        assert alive(mark) == []
        polite = servers[0].run_cmd("sleep 100")
        assert polite.pid
        polite.signal("TERM")
        assert polite.wait() == -signal.SIGTERM
        later = servers[0].run_cmd("sleep 100")
        later.async_signal(signal.SIGINT, delay=0.3)
        assert later.wait(block=False) is None
        assert later.wait() == -signal.SIGINT
        assert later.kill() == -signal.SIGINT

    ok(perform(experiment))


def test_an_infinite_time_out_does_not_stop_the_others(perform: Perform) -> None:
    def experiment(servers: ServerList) -> None:
        # Nothing else may wake up who waits for the second.
        servers[0].run_cmd("sleep 100", timeout=math.inf)
        servers[0].run_cmd("sleep 100", timeout=1e300)
        sleep(0.5)
        assert servers[1].run_cmd("sleep 20", timeout=0.5).wait() is ReturnCode.TIMEOUT
        assert servers[1].run_cmd("sleep 20", timeout=0.5).wait() is ReturnCode.TIMEOUT

    ok(perform(experiment))


def test_a_timeout_kills_the_command_and_says_so(perform: Perform) -> None:
    mark = new_mark()

    def experiment(servers: ServerList) -> None:
        begin = time.monotonic()
        assert servers[0].run_cmd(TREE.format(mark=mark), timeout=0.5).wait() is ReturnCode.TIMEOUT
        assert time.monotonic() - begin < 5
        assert servers[0].run_cmd("true", timeout=60).wait() == 0
        group = ProcessGroup()
        for seconds in ("0", "100"):
            group.add(servers[1].run_cmd(f"sleep {seconds}", timeout=0.5))
        assert group.has_timeout()

    ok(perform(experiment))
    assert alive(mark) == []


def test_what_is_left_running_ends_with_the_experiment(perform: Perform) -> None:
    marks = [new_mark(), new_mark()]

    def returns(servers: ServerList) -> None:
        servers[0].run_cmd(TREE.format(mark=marks[0]))
        wait_for_tree(marks[0])

    def raises(servers: ServerList) -> None:
        assert alive(marks[0]) == []
        servers[2].run_cmd(TREE.format(mark=marks[1]))
        wait_for_tree(marks[1])
        raise ValueError("on purpose")

    results = perform(returns, raises)
    assert [result.status for result in results] == ["ok", "failed"]
    assert results[1].detail.startswith("ValueError: on purpose (test_experiments_commands.py:")
    assert alive(marks[1]) == []


def test_stdin(perform: Perform) -> None:
    out = Kept()

    def experiment(servers: ServerList) -> None:
        first = servers[0].run_cmd('read p && echo "got $p"', stdout=out)
        first.stdin("hello\n")
        first.wait()
        second = servers[0].run_cmd("cat", stdout=out)
        second.async_stdin("later\n", delay=0.3)
        second.stdin("sooner\n")
        second.async_stdin("", close=True, delay=0.5)
        assert second.wait() == 0
        third = servers[0].run_cmd("md5sum", stdout=out)
        third.stdin(b"\xff" * 5_000_000, close=True, delay=0.1)
        third.wait()
        servers[0].run_cmd("cat", stdin="given at once", stdout=out).wait()
        fourth = servers[0].run_cmd("true")
        fourth.wait()
        fourth.stdin("nobody reads this\n")

    ok(perform(experiment))
    assert out[:3] == ["got hello\n", "sooner\n", "later\n"]
    assert out[3] == f"{hashlib.md5(bytes([255]) * 5_000_000).hexdigest()}  -\n"
    assert out[4] == "given at once"


def test_send_file_keeps_mode_and_bytes(perform: Perform, tmp_path: Path) -> None:
    source = tmp_path / "a program.sh"
    source.write_bytes(b"#!/bin/sh\necho ran\n" + os.urandom(3_000_000))
    source.chmod(0o750)
    target = tmp_path / "there"
    target.mkdir()

    def experiment(servers: ServerList) -> None:
        servers[0].send_file(source, str(target / "copy"))
        servers.cd(str(target))
        servers[0].send_file(source, ".")
        servers[0].send_file(str(source), "~/at-home")
        servers[0].send_file(source, "-r")
        servers[0].run_cmd("cmp ~/at-home copy && cmp copy 'a program.sh' && rm ~/at-home").wait()

    ok(perform(experiment))
    assert (target / "copy").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((target / "copy").stat().st_mode) == 0o750
    assert sorted(path.name for path in target.iterdir()) == ["-r", "a program.sh", "copy"]

    def nowhere(servers: ServerList) -> None:
        servers[0].send_file(source, "/no/such/folder/copy")

    def nothing(servers: ServerList) -> None:
        servers[0].send_file("/no/such/file", "copy")

    assert "send_file" in failure(perform(nowhere))
    assert failure(perform(nothing)) == "/no/such/file: cannot read the file: No such file or directory"


def test_a_file_that_changes_on_its_way_is_refused(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roomful.remote_process import RemoteProcess

    source = tmp_path / "data"
    source.write_bytes(b"x" * 100_000)
    write = RemoteProcess.write
    monkeypatch.setattr(RemoteProcess, "write", lambda self, data, wait=True: write(self, data[:-1] + b"y", wait))

    def experiment(servers: ServerList) -> None:
        servers[0].send_file(source, str(tmp_path / "copy"))

    assert "the checksum is wrong" in failure(perform(experiment))
    assert not (tmp_path / "copy").exists()
    assert list(tmp_path.glob("copy*")) == []
