"""What commands print, line by line, to every kind of handler while it is printed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from roomful.experiments import (
    ComputedParam,
    Console,
    CSVGenerator,
    EnvParser,
    File,
    IterClassGen,
    ParameterGrid,
    ServerList,
    SubstrMatcher,
    sleep,
)
from tests.support.experiments import Kept, Perform, failure, ok, perform, servers, settings
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "perform", "rootless_lab", "servers", "settings"]


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
