"""Agents, guards, servers and links that die, freeze or are cut: tasks run on or again, nothing is left."""

from __future__ import annotations

import json
import os
import pwd
import signal
import time
from pathlib import Path

import pytest

from roomful.agent.processes import marked
from roomful.queue import TaskSpec
from tests.support.agents import GONE_SECONDS, PATIENCE, Room, Wire, alive, pid_in
from tests.support.waiting import wait_until


def test_a_killed_worker_leaves_nothing_and_its_tasks_run_again(own: Room) -> None:
    own.start()
    marker = own.folder / "pids"
    ids = own.submit(f"echo $$ >> {marker}; setsid sh -c 'echo $$ >> {marker}; sleep 600' & sleep 600 & wait")
    wait_until(lambda: marker.exists() and len(marker.read_text().split()) == 2, PATIENCE)
    pids = [int(word) for word in marker.read_text().split()]
    old = own.worker_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), GONE_SECONDS)
    wait_until(lambda: (own.queue.task(ids[0]) or ids).attempt == 2, 10, lambda: own.log())
    record = own.queue.task(ids[0])
    assert record
    assert [entry.reason for entry in record.tries] == ["restarted"]
    assert own.worker_pid() != old


def test_a_killed_guard_is_replaced_and_nothing_counts_against_its_tasks(own: Room) -> None:
    own.start()
    marker = own.folder / "pid"
    ids = own.submit(f"echo $$ > {marker}; sleep 600")
    pid, old = pid_in(marker), own.guard_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not alive(pid), GONE_SECONDS)
    wait_until(lambda: (own.queue.task(ids[0]) or ids).attempt == 2, 10, lambda: own.log())
    record = own.queue.task(ids[0])
    assert record
    assert [entry.reason for entry in record.tries] == ["stopped"]
    assert own.guard_pid() != old


def test_a_new_agent_removes_what_a_wholly_killed_one_left(own: Room) -> None:
    own.start()
    marker = own.folder / "pid"
    own.submit(f"setsid sleep 600 & echo $! > {marker}; wait")
    left = pid_in(marker)
    guard, worker = own.guard_pid(), own.worker_pid()
    os.kill(guard, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    instance = (own.folder / "agent-one" / "instance").read_text().strip()
    assert alive(left)
    own.queue.expire()
    own.start()
    # Not at once: what the old agent has left in the queue and in its folder makes the new one look started.
    wait_until(lambda: not alive(left) or pid_in(marker) != left, GONE_SECONDS, own.log)
    wait_until(lambda: len(marked("ROOMFUL_AGENT", instance)) == 2, PATIENCE)


def test_stopping_gives_tasks_back_and_leaves_nothing(own: Room) -> None:
    own.start()
    marker = own.folder / "pid"
    own.submit(f"setsid sleep 600 & echo $! > {marker}; wait", "true")
    pid, guard, worker = pid_in(marker), own.guard_pid(), own.worker_pid()
    reply = own.command("stop", "--directory", str(own.folder / "agent-one"))
    assert reply["state"] == "stopped"
    assert not any(alive(one) for one in (pid, guard, worker))
    record = own.queue.task(1)
    assert record
    assert record.state == "todo"
    assert [entry.reason for entry in record.tries] == ["stopped"]
    assert [client.state for client in own.queue.clients()] == ["stopped"]
    assert own.command("stop", "--directory", str(own.folder / "agent-one"))["state"] == "absent"


@pytest.mark.parametrize("suspended", ["guard", "worker", "both"])
def test_a_suspended_agent_gives_its_tasks_back_when_it_is_stopped(own: Room, suspended: str) -> None:
    own.start()
    marker = own.folder / "pid"
    own.submit(f"echo $$ > {marker}; sleep 600")
    task, guard, worker = pid_in(marker), own.guard_pid(), own.worker_pid()
    for name, pid in (("worker", worker), ("guard", guard)):
        if suspended in (name, "both"):
            os.kill(pid, signal.SIGSTOP)
    reply = own.command("stop", "--directory", str(own.folder / "agent-one"), "--timeout", "30")
    assert reply == {"state": "stopped", "killed": 0}
    assert not any(alive(pid) for pid in (task, guard, worker))
    record = own.queue.task(1)
    assert record
    assert (record.state, [entry.reason for entry in record.tries]) == ("todo", ["stopped"])


def test_a_server_restart_does_not_touch_running_tasks(own: Room) -> None:
    own.start()
    go = own.folder / "go"
    (long,) = own.submit(f"while [ ! -e {go} ]; do sleep 0.05; done; echo finished")
    wait_until(lambda: own.queue.counts().running == 1, PATIENCE)
    own.valkey.signal(signal.SIGKILL)
    go.touch()
    time.sleep(1.0)
    own.valkey.start()
    assert own.queue.wait([long], timeout=PATIENCE), own.log()
    record = own.queue.task(long)
    assert record
    assert (record.state, record.attempt, record.tries) == ("done", 1, ())
    assert own.queue.output(long).head == b"finished\n"
    assert own.queue.clients()[0].agent == "one#1"


def test_a_lost_claim_reply_loses_and_repeats_nothing(own: Room) -> None:
    wire = Wire(own.folder / "wire.sock", own.valkey.socket)
    own.start(socket=wire.path)
    hungry = own.queue.keys.hungry
    wait_until(lambda: own.valkey.client().scard(hungry), PATIENCE, "its first claim is over, and there was nothing")
    wire.deaf_after = own.queue.scripts.digest("claim").encode()
    ids = own.submit(*(f"echo run >> {own.folder}/runs # {number}" for number in range(4)))
    wait_until(lambda: own.queue.counts().running > 0, PATIENCE, "the claim arrives")
    wire.mend()
    assert own.queue.wait(ids, timeout=60), own.log()
    assert (own.folder / "runs").read_text() == "run\n" * 4
    assert {record.attempt for record in own.queue.tasks()} == {1}
    wire.close()


def test_an_agent_that_was_given_up_takes_its_task_back_if_it_can(own: Room) -> None:
    wire = Wire(own.folder / "wire.sock", own.valkey.socket)
    own.start(socket=wire.path)
    go = own.folder / "go"
    (task_id,) = own.submit(f"while [ ! -e {go} ]; do sleep 0.05; done")
    wait_until(lambda: own.queue.counts().running == 1, PATIENCE)
    wire.cut()
    wait_until(lambda: own.queue.expire(lease_seconds=1), PATIENCE)
    assert own.queue.counts().todo == 1
    wire.mend()
    wait_until(lambda: own.queue.counts().running == 1, PATIENCE, own.log)
    go.touch()
    assert own.queue.wait([task_id], timeout=PATIENCE)
    record = own.queue.task(task_id)
    assert record
    assert (record.state, record.attempt) == ("done", 1)
    wire.close()


def test_a_fenced_agent_kills_its_task_and_another_ones_result_counts(own: Room) -> None:
    wire = Wire(own.folder / "wire.sock", own.valkey.socket)
    own.start("far", socket=wire.path)
    script = f"echo $$ > {own.folder}/pid-$ROOMFUL_HOST; [ $ROOMFUL_HOST = near ] || sleep 600; sleep 1; echo near"
    (task_id,) = own.submit(script)
    pid = pid_in(own.folder / "pid-far")
    wire.cut()
    wait_until(lambda: own.queue.expire(lease_seconds=1), PATIENCE)
    own.start("near")
    pid_in(own.folder / "pid-near")
    wire.mend()
    wait_until(lambda: not alive(pid), PATIENCE)
    assert own.queue.wait([task_id], timeout=PATIENCE)
    record = own.queue.task(task_id)
    assert record
    assert (record.state, record.attempt, record.host) == ("done", 2, "near")
    assert own.queue.output(task_id).head == b"near\n"
    wire.close()


def test_a_frozen_agent_loses_its_lease_and_comes_back(own: Room) -> None:
    own.start("frozen")
    (task_id,) = own.submit(f"echo $$ > {own.folder}/pid-$ROOMFUL_HOST; sleep 2")
    pid_in(own.folder / "pid-frozen")
    os.kill(own.worker_pid("frozen"), signal.SIGSTOP)
    try:
        own.start("other")
        lost = wait_until(
            lambda: own.queue.expire(lease_seconds=300, silence_seconds=3, alive_hosts=["frozen"]), PATIENCE
        )
        assert [entry.agent for entry in lost] == ["frozen#1"]
        pid_in(own.folder / "pid-other")
    finally:
        os.kill(own.worker_pid("frozen"), signal.SIGCONT)
    assert own.queue.wait([task_id], timeout=PATIENCE)
    record = own.queue.task(task_id)
    assert record
    assert (record.state, record.host, record.attempt) == ("done", "other", 2)
    wait_until(lambda: own.client("frozen"), PATIENCE)
    wait_until(lambda: own.queue.counts().running == 0, PATIENCE)


def test_a_failed_task_goes_to_another_host(own: Room) -> None:
    own.start("one")
    own.start("two")
    report = own.queue.submit([TaskSpec(command="echo $ROOMFUL_HOST; exit 1", retries=1)])
    assert own.queue.wait(report.ids, timeout=PATIENCE)
    record = own.queue.task(1)
    assert record
    assert {record.host, record.tries[0].host} == {"one", "two"}


PYTHONS = sorted((Path(pwd.getpwuid(os.getuid()).pw_dir) / ".pyenv/versions").glob("3.*/bin/python"))
MODERN = [path for path in PYTHONS if tuple(int(part) for part in path.parts[-3].split(".")[:2]) >= (3, 8)]


@pytest.mark.parametrize("python", [str(path) for path in MODERN], ids=[path.parts[-3] for path in MODERN])
def test_the_agent_runs_on_every_python(own: Room, python: str) -> None:
    own.start(python=python)
    (work := own.folder / "work-one").mkdir(exist_ok=True)
    (work / "module.py").write_text("def version(): import sys; return list(sys.version_info[:2])\n")
    (record,) = own.run("module:version", kind="python")
    version = json.loads(own.queue.output(record.id).head)
    assert version == [int(part) for part in Path(python).parts[-3].split(".")[:2]]
    records = own.run(*(f"echo {number}" for number in range(50)))
    assert [own.queue.output(record.id).head for record in records] == [b"%d\n" % number for number in range(50)]
    assert "Warning" not in own.log()
    assert "Traceback" not in own.log()


def test_a_task_that_comes_back_to_the_host_that_runs_it_ends_its_earlier_attempt(own: Room) -> None:
    own.start("one")
    (task_id,) = own.submit(f"echo $$ > {own.folder}/pid-$ROOMFUL_ATTEMPT; sleep 300")
    first = pid_in(own.folder / "pid-1")
    assert own.queue.requeue_host("one") == 1
    second = pid_in(own.folder / "pid-2")
    wait_until(lambda: not alive(first), PATIENCE, own.log)
    assert alive(second)
    record = own.queue.task(task_id)
    assert record
    assert (record.state, record.attempt) == ("running", 2)


def test_a_server_that_cannot_write_keeps_its_tasks_running(own: Room) -> None:
    """A cut agent ends its tasks after a while; one that is only told to wait does not."""
    own.start(cut_off_grace_seconds=5.0)
    started = own.folder / "started"
    (task_id,) = own.submit(f"echo >> {started}; sleep 12")
    wait_until(started.exists, PATIENCE)
    server = own.valkey.client()
    server.config_set("maxmemory", "1mb")
    try:
        wait_until(lambda: "maxmemory" in own.log(), PATIENCE)
        # Longer than the agent may be cut off, and than the pause between two of its attempts to be heard.
        time.sleep(9)
        complaints = own.log().count("no heartbeat")
    finally:
        server.config_set("maxmemory", "0")
    assert own.queue.wait([task_id], timeout=PATIENCE), own.log()
    record = own.queue.task(task_id)
    assert record
    assert (record.state, record.attempt, record.tries) == ("done", 1, ())
    assert complaints == 1, own.log()
