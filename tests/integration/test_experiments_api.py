"""What experiments are written with beside commands and handlers, each name on real hosts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from roomful.experiments import (
    GDB,
    SOCKET_BIND,
    Action,
    ProcessGroup,
    Server,
    ServerList,
    any_failed,
    run_on_all,
    sleep,
)
from roomful.experiments.runner import RunOptions
from tests.support.experiments import Kept, Perform, failure, ok, perform, servers, settings
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "perform", "rootless_lab", "servers", "settings"]


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
