"""What experiments are written with, each name on real hosts."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.experiments import (
    GDB,
    SOCKET_BIND,
    Action,
    CommandFailed,
    ComputedParam,
    Console,
    CSVGenerator,
    EnvParser,
    File,
    IterClassGen,
    ParameterGrid,
    ProcessGroup,
    ReturnCode,
    Server,
    ServerList,
    SubstrMatcher,
    any_failed,
    log,
    run_on_all,
    sleep,
)
from roomful.experiments.logs import logger
from roomful.experiments.runner import RunOptions
from roomful.lab import Lab
from roomful.settings import Settings
from tests.support.experiments import Kept, Perform, failure, ok, performer, servers_of
from tests.support.lab import lab, rootless_lab, settings_for
from tests.support.sleepers import TREE, alive, new_mark, wait_for_tree

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path) -> Settings:
    return settings_for(rootless_lab, tmp_path)


@pytest.fixture
def servers(settings: Settings) -> ServerList:
    return servers_of(settings)


@pytest.fixture
def perform(
    settings: Settings, servers: ServerList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> Perform:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger.name)
    return performer(settings, servers)


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
    assert results[1].detail.startswith("ValueError: on purpose (test_experiments_api.py:")
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
        servers[0].run_cmd("cmp ~/at-home copy && cmp copy 'a program.sh' && rm ~/at-home").wait()

    ok(perform(experiment))
    assert (target / "copy").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((target / "copy").stat().st_mode) == 0o750
    assert sorted(path.name for path in target.iterdir()) == ["a program.sh", "copy"]

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


def test_handlers(perform: Perform, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = EnvParser()
    order: list[str] = []

    def experiment(servers: ServerList) -> None:
        ready = SubstrMatcher("ready")
        server = servers[0].run_cmd(
            "echo starting; sleep 0.2; echo is ready; read x; echo ready again; sleep 100",
            stdout=[ready, Console(fmt="server: %s"), File(tmp_path, "server.log"), order.append],
        )
        assert not ready.matched()
        assert ready.wait()
        ready.reset()
        server.stdin("go\n")
        assert ready.wait(timeout=10)
        servers[0].run_cmd("printf 'A=1+1\\nB=x\\n'; printf '\\377\\r\\n' >&2", env, File("err.log")).wait()
        never = SubstrMatcher("never")
        servers[1].run_cmd("echo something else", stdout=never)
        never.wait()

    assert failure(perform(experiment)) == "the command ended and never printed 'never'"
    assert (env["A"], env.B) == ("1+1", "x")
    assert order == ["starting\n", "is ready\n", "ready again\n"]
    assert (tmp_path / "server.log").read_text() == "starting\nis ready\nready again\n"
    assert (tmp_path / "err.log").read_bytes() == b"\xff\r\n"
    assert "server: is ready" in caplog.text


def test_lines_come_while_they_are_written(perform: Perform) -> None:
    """mawk and perl buffer by themselves: they need the terminal."""
    commands = {
        "{ echo ready; sleep 30; } | sed 's/$/!/'": False,
        "python3 -c \"import time; print('ready'); time.sleep(30)\"": False,
        "perl -e 'print qq(ready\\n); sleep 30'": True,
    }

    def experiment(servers: ServerList) -> None:
        for text, terminal in commands.items():
            ready = SubstrMatcher("ready")
            servers[0].run_cmd(text, stdout=ready, terminal=terminal)
            assert ready.wait(timeout=10), text

    ok(perform(experiment))


def test_handlers_run_while_the_experiment_sleeps(perform: Perform) -> None:
    out = Kept()

    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd("echo one; sleep 0.2; echo two; sleep 100", stdout=out)
        sleep(1)
        assert out == ["one\n", "two\n"]

    ok(perform(experiment))


def test_a_handler_that_fails_fails_the_experiment(perform: Perform, caplog: pytest.LogCaptureFixture) -> None:
    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd("echo x; sleep 100", stdout=lambda line: int(line)).wait()

    detail = failure(perform(experiment))
    assert detail.startswith("a handler failed: ValueError: invalid literal for int()")
    assert "Traceback" in caplog.text

    def uncallable(servers: ServerList) -> None:
        servers[0].run_cmd("true", stdout=[print, "out.log"])

    assert failure(perform(uncallable)).startswith("the stdout handler 'out.log' cannot be called")

    def waits(servers: ServerList) -> None:
        other = servers[0].run_cmd("sleep 100")
        servers[0].run_cmd("echo x", stdout=lambda line: other.wait()).wait()
        sleep(60)

    assert failure(perform(waits)).startswith("a handler cannot wait")


def test_a_handler_can_feed_and_kill(perform: Perform) -> None:
    def experiment(servers: ServerList) -> None:
        out = Kept()
        second = servers[1].run_cmd("cat; sleep 100", stdout=out)
        servers[0].run_cmd("echo from the first", stdout=second.stdin).wait()
        second.async_stdin("", close=True)

        def kill(line: str) -> None:
            second.kill()

        servers[0].run_cmd("sleep 0.3; echo now", stdout=kill).wait()
        assert second.wait() == -signal.SIGKILL
        assert out == ["from the first\n"]

    ok(perform(experiment))


def test_many_lines_come_complete_and_in_order(perform: Perform) -> None:
    seen = Kept()

    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd("seq 1000000", stdout=seen).wait()

    ok(perform(experiment))
    assert len(seen) == 1_000_000
    assert all(int(line) == number for number, line in enumerate(seen, 1))


def test_results_become_rows(perform: Perform, tmp_path: Path) -> None:
    def experiment(servers: ServerList, size: int, twice: int) -> None:
        rows = IterClassGen(CSVGenerator, r"ops=(?P<ops>\d+)", CSVGenerator.Array(r"lat=(?P<lat>\d+)"), size=size)
        for server in servers[:2]:
            text = f"echo lat=1; echo ops=1; echo lat=2; echo ops={twice}"
            server.run_cmd(text, stdout=next(rows)).wait()
        for row, server in zip(rows, servers, strict=False):
            row.add_columns(node=server.id)
            row.write("out.csv")
        unwritten = CSVGenerator(r"x=(?P<x>.)")
        servers[0].run_cmd("echo x=5", stdout=unwritten).wait()

    ok(perform(experiment, params=ParameterGrid(size=[1, 2], twice=ComputedParam(lambda size: 2 * size))))
    assert (tmp_path / "out.csv").read_text() == (
        "size,ops,lat,node\n1,2,1|2,lab01\n1,2,1|2,lab02\n2,4,1|2,lab01\n2,4,1|2,lab02\n"
    )
    table = (tmp_path / "runs" / "run" / "results.csv").read_text().splitlines()
    assert table[0] == "experiment,file,repetition,size,twice,ops,lat,node,x"
    assert table[1] == "experiment__size=1_twice=2,experiments,1,1,2,2,1|2,lab01,"
    assert table[3] == "experiment__size=1_twice=2,experiments,1,1,2,,,,5"
    assert len(table) == 7


@pytest.mark.parametrize(
    ("most", "times", "status"),
    [(0, 3, "ok"), (2, 2, "ok"), (1, 5, "failed")],
    ids=["no limit", "enough", "too many"],
)
def test_restarts(perform: Perform, monkeypatch: pytest.MonkeyPatch, most: int, times: int, status: str) -> None:
    monkeypatch.setattr("roomful.experiments.runner.RESTART_PAUSE", 0.0)
    calls = []

    def experiment(servers: ServerList) -> Action | None:
        calls.append(servers[0].run_cmd("exit 3").wait())
        return Action.RESTART if len(calls) <= times else None

    (result,) = perform(experiment, max_restarts=most, raise_on_rc=False)
    assert result.status == status
    assert calls == [3] * (1 + (times if status == "ok" else most))
    assert result.restarts == len(calls) - 1
    if status == "failed":
        assert result.detail == "asked for more than 1 restarts"


def test_groups_and_helpers(perform: Perform) -> None:
    def experiment(servers: ServerList) -> None:
        assert run_on_all(servers, "test $A = 5", env={"A": 5}) == [0, 0, 0]
        assert run_on_all(servers[:2], "exit 4", verify_rc=False) == [4, 4]
        assert any_failed([servers[0].run_cmd(f"sleep 0.{n}") for n in range(3)], poll_interval=0.1) is False
        assert any_failed([servers[0].run_cmd("sleep 100"), servers[1].run_cmd("sleep 0.2; exit 6")]) == 6
        group = ProcessGroup()
        for server in servers:
            group.add(server.run_cmd("sleep 100"))
        assert group[0] is next(iter(group))
        assert all(command.pid for command in group)
        group.signal(signal.SIGTERM)
        assert group.wait(verify_rc=False) == [-signal.SIGTERM] * 3
        group.wait()

    assert failure(perform(experiment, raise_on_rc=False)) == "lab01: 'sleep 100' ended with -15"


def test_gdb_runs_a_command(perform: Perform, program: Callable[[str], str]) -> None:
    program("gdb")
    out = Kept()

    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd(f"{GDB} /bin/true", stdin="quit\n", stdout=out).wait()

    ok(perform(experiment))
    assert any("exited normally" in line for line in out)


def test_a_command_is_bound_to_a_socket_and_its_memory(perform: Perform, program: Callable[[str], str]) -> None:
    program("numactl")
    out = Kept()

    def experiment(servers: ServerList) -> None:
        servers[0].run_cmd(f"{SOCKET_BIND(0)} numactl --show", stdout=out).wait()

    ok(perform(experiment))
    shown = dict(line.split(": ", 1) for line in out if ": " in line)
    assert (shown["policy"].strip(), shown["nodebind"].strip(), shown["membind"].strip()) == ("bind", "0", "0")

    def nowhere(servers: ServerList) -> None:
        servers[0].run_cmd(f"{SOCKET_BIND('0,77')} true").wait()

    assert "numactl --cpunodebind=0,77 --membind=0,77 true' ended with 1" in failure(perform(nowhere))


def test_unreachable_servers_are_named_with_the_reason(perform: Perform, servers: ServerList) -> None:
    def experiment(servers: ServerList) -> None:
        raise AssertionError("never called")

    mixed = ServerList(servers[0], Server("off", "127.0.0.1", 1), Server("unknown", "no-such-host.invalid"))
    detail = failure(perform(experiment, servers=mixed))
    assert detail.startswith("2 of 3 servers cannot be reached: 127.0.0.1:1: refused: nothing listens on ")
    assert "no-such-host.invalid: dns" in detail


def test_a_server_that_dies_fails_the_experiment(perform: Perform) -> None:
    def experiment(servers: ServerList) -> None:
        launcher = servers[0]._session.hosts["lab01"].about["pid"]  # type: ignore[union-attr]
        assert servers[0].run_cmd("sleep 100").pid
        os.kill(launcher, signal.SIGKILL)
        sleep(60)

    def after(servers: ServerList) -> None:
        assert servers[0].run_cmd("true").wait() == 0

    results = perform(experiment, after)
    assert results[0].detail.startswith("lab01: 'sleep 100' was lost: ")
    assert results[1].status == "ok"


def test_bad_folders_and_arguments(perform: Perform) -> None:
    def folder(servers: ServerList) -> None:
        servers[0].cd("/no/such/folder")
        servers[0].run_cmd("true").wait()

    assert failure(perform(folder)) == "lab01: 'true' did not start: /no/such/folder: No such file or directory"
    for arguments, message in (
        ({"cmd": ""}, "bad command ''"),
        ({"cmd": "true", "timeout": 0}, "bad timeout 0"),
        ({"cmd": "true", "stdin": 5}, "bad stdin 5"),
        ({"cmd": "a\0b"}, "bad command 'a\\x00b'"),
    ):

        def experiment(servers: ServerList, arguments: dict[str, Any] = arguments) -> None:
            servers[0].run_cmd(**arguments)

        assert message in failure(perform(experiment))


def test_disjoint_servers_run_side_by_side_and_shared_ones_in_order(perform: Perform, servers: ServerList) -> None:
    spans: dict[str, tuple[float, float]] = {}

    def named(name: str) -> Callable[..., Any]:
        def experiment(servers: ServerList) -> None:
            begin = time.monotonic()
            assert servers[0].run_cmd("sleep 0.4").wait() == 0
            spans[name] = (begin, time.monotonic())

        experiment.__name__ = name
        return experiment

    used = {"a": servers[0,], "b": servers[1,], "both": servers[0, 1], "c": servers[2,], "d": servers[0,]}
    pairs = [(named(name), some) for name, some in used.items()]
    results = perform(*pairs, options=RunOptions(jobs=3))
    ok(results)
    assert [result.experiment.name for result in results] == list(used)
    assert overlap(spans["a"], spans["b"])
    assert overlap(spans["a"], spans["c"])
    assert not overlap(spans["a"], spans["both"])
    assert spans["d"][0] >= spans["both"][1] >= spans["a"][1]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]
