"""A host on which no task can start: its tasks wait, or run elsewhere, and none fails for it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess

from tests.support.agents import PATIENCE, Room
from tests.support.queues import state
from tests.support.waiting import wait_until


def _states(room: Room, ids: list[int]) -> list[str]:
    return [record.state for record in room.queue.tasks(ids=ids)]


def test_tasks_of_a_host_that_lost_its_workdir_wait_until_it_is_back(own: Room) -> None:
    own.start()
    workdir = own.folder / "work-one"
    shutil.rmtree(workdir)
    ids = own.submit(*(f"echo {number}" for number in range(4)))
    client = wait_until(lambda: (one := own.client("one")) and one.busy_with and one, PATIENCE)
    assert client.busy_with == f"cannot start tasks: workdir {workdir}: No such file or directory"
    assert set(_states(own, ids)) <= {"todo", "running"}
    workdir.mkdir()
    assert own.queue.wait(ids, timeout=PATIENCE), own.log()
    assert _states(own, ids) == ["done"] * 4


def test_they_run_on_another_host_meanwhile(own: Room) -> None:
    own.start("lost")
    shutil.rmtree(own.folder / "work-lost")
    ids = own.submit(*(f"echo {number}" for number in range(4)))
    wait_until(lambda: (one := own.client("lost")) and one.busy_with, PATIENCE)
    own.start("well")
    assert own.queue.wait(ids, timeout=PATIENCE)
    assert {(record.state, record.host) for record in own.queue.tasks(ids=ids)} == {("done", "well")}


def test_as_many_tasks_run_as_files_may_be_open_and_the_rest_wait(own: Room) -> None:
    own.start(cpus=64.0)
    worker = own.worker_pid()
    limit = len(os.listdir(f"/proc/{worker}/fd")) + 40
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
    ids = own.submit(*(f"head -c 100000 /dev/zero; sleep 0.5; echo {number}" for number in range(24)))
    assert own.queue.wait(ids, timeout=PATIENCE), own.log()
    records = list(own.queue.tasks(ids=ids))
    assert {(record.state, record.detail) for record in records} == {("done", "")}
    assert own.worker_pid() == worker


def test_a_user_may_have_no_more_processes(own: Room) -> None:
    own.start("few")
    worker = own.worker_pid("few")
    # The kernel lets root have as many as it likes: the control group of processes says no to root as well.
    own.start("many")
    group = f"/sys/fs/cgroup/pids/roomful-test-{os.getpid()}"
    os.mkdir(group)
    try:
        for name, text in (("cgroup.procs", str(worker)), ("pids.max", "3")):
            subprocess.run(["sh", "-c", f"echo {text} > {group}/{name}"], check=True)
        ids = own.submit(*(f"sleep 0.2; echo {number}" for number in range(12)))
        assert own.queue.wait(ids, timeout=PATIENCE), own.log("few")
        assert _states(own, ids) == ["done"] * 12
    finally:
        own.close_agents()
        os.rmdir(group)


def test_tasks_may_open_as_many_files_as_before(own: Room) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        own.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(own.worker_pid(), resource.RLIMIT_NOFILE)[0] > 256
    (record,) = own.run("sleep 0.2; ulimit -n")
    assert own.queue.output(record.id).head == b"256\n"


def test_a_task_whose_stdin_is_a_pipe_holds_up_no_other(own: Room) -> None:
    own.start()
    pipe = own.folder / "work-one" / "a pipe"
    os.mkfifo(pipe)
    (waiting,) = own.submit("cat", stdin="a pipe")
    (record,) = own.run("echo hello")
    assert (record.state, state(own.queue, waiting)) == ("done", "running")
    with pipe.open("wb") as file:
        file.write(b"at last\n")
    assert own.queue.wait([waiting], timeout=PATIENCE)
    assert own.queue.output(waiting).head == b"at last\n"


def test_a_full_disk_under_a_large_log_keeps_no_worker_from_starting_again(own: Room) -> None:
    folder = own.folder / "agent-one"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "none", folder], check=True)
    try:
        own.start()
        guard, worker = own.guard_pid(), own.worker_pid()
        with (folder / "agent.log").open("ab") as log:
            log.write(b"x\n" * (3 << 20))
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        os.kill(worker, signal.SIGKILL)
        [record] = own.run("echo here")
        assert (record.state, own.guard_pid()) == ("done", guard)
    finally:
        own.close_agents()
        subprocess.run(["umount", folder], check=True)
