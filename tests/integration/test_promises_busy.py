"""What must hold while a host has more to do than it can: heartbeats come, and outputs stay apart."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.agent.leases import SILENCE_SECONDS
from tests.support.agents import PATIENCE, Room
from tests.support.waiting import wait_until

HOGS = 8
NO_OPS = 3000

#: Hands its standard output to whoever listens at a socket, as ssh does to its master and tmux to its server.
_HAND_OVER = """\
import array, socket, sys
with socket.socket(socket.AF_UNIX) as end:
    end.connect(sys.argv[1])
    end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
"""


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that take all the CPU that they get."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_heartbeats_come_and_a_long_task_runs_once_however_busy_the_host_is(own: Room) -> None:
    own.queue.configure({"nice": 0})
    own.start()
    go = own.folder / "go"
    (long,) = own.submit(f"while [ ! -e {go} ]; do sleep 0.2; done", cpus=0)
    with hogs(HOGS):
        own.submit("head -c 300000000 /dev/zero", cpus=1)
        own.submit(*(f"true {number}" for number in range(NO_OPS)), cpus=0.25)
        longest, end = 0.0, time.monotonic() + 1.5 * SILENCE_SECONDS
        while time.monotonic() < end:
            client = own.client("one")
            assert client, f"given up; the longest silence before was {longest:.1f} s"
            longest = max(longest, client.seconds_since_heartbeat)
            assert own.queue.expire(alive_hosts=["one"]) == []
            time.sleep(0.05)
    assert longest < SILENCE_SECONDS / 2
    assert own.queue.counts().done > 100, "it was not busy at all"
    go.touch()
    assert own.queue.wait(timeout=60), own.log()
    record = own.queue.task(long)
    assert record
    assert (record.state, record.attempt, record.tries) == ("done", 1, ())


def test_heartbeats_come_however_often_an_agent_is_woken(own: Room) -> None:
    own.queue.configure({"heartbeat_seconds": 0.5})
    own.start()
    wait_until(lambda: own.queue.settings().get("heartbeat_seconds"), PATIENCE)
    client, end = own.valkey.client(), time.monotonic() + 4
    while time.monotonic() < end:
        client.xadd(own.queue.keys.wake, {"w": "1"}, maxlen=16)
        found = own.client("one")
        assert found
        assert found.seconds_since_heartbeat < 2
        time.sleep(0.05)


def test_who_was_handed_a_tasks_output_cannot_write_into_another_ones(own: Room) -> None:
    own.start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own.folder / "master.sock"))
        listener.listen(1)
        script = own.folder / "hand_over.py"
        script.write_text(_HAND_OVER)
        (first,) = own.submit(f"echo mine; {sys.executable} {script} {own.folder}/master.sock")
        with listener.accept()[0] as end:
            _, ancillary, _, _ = end.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    handed = array.array("i", ancillary[0][2])[0]
    assert own.queue.wait([first], timeout=PATIENCE), own.log()
    try:
        marker = Path(own.folder / "started")
        (second,) = own.submit(f"touch {marker}; while [ -e {marker} ]; do sleep 0.02; done; echo second")
        wait_until(marker.exists, PATIENCE)
        with pytest.raises(BrokenPipeError):
            os.write(handed, b"not yours\n")
        marker.unlink()
        assert own.queue.wait([second], timeout=PATIENCE), own.log()
    finally:
        os.close(handed)
    assert [own.queue.output(task_id).head for task_id in (first, second)] == [b"mine\n", b"second\n"]
