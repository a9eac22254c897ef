"""The queue's promises, with scripted agents and a real Valkey."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from roomful.errors import ServerError
from roomful.queue import Queue, TaskSpec
from tests.support.agents import Room, Scripted
from tests.support.queues import add
from tests.support.waiting import wait_until


def test_submitted_tasks_survive_a_killed_server(server: Room, queue: Queue) -> None:
    report = queue.submit(TaskSpec(command=f"echo {number}") for number in range(3000))
    server.valkey.signal(signal.SIGKILL)
    server.valkey.start()
    assert (report.first_id, report.last_id, report.added, report.durable) == (1, 3000, 3000, True)
    assert queue.counts().todo == 3000
    assert [record.spec.command for record in queue.tasks(ids=[1, 3000])] == ["echo 0", "echo 2999"]


def test_a_submission_whose_replies_are_lost_adds_each_task_once(server: Room, queue: Queue) -> None:
    specs = [TaskSpec(command=f"echo {number}") for number in range(20_000)]
    seen = []

    def kill_connections(taken: int) -> None:
        seen.append(taken)
        if len(seen) in (2, 7):
            server.valkey.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    report = queue.submit(specs, progress=kill_connections)
    assert (report.added, report.skipped, queue.counts().todo) == (20_000, 0, 20_000)
    assert report.ids == list(range(1, 20_001))


def test_duplicates_are_skipped_while_their_like_is_queued_running_or_done(queue: Queue) -> None:
    add(queue, "a", "b")
    agent = Scripted(queue, "h")
    (one, _), (two, _) = agent.claim(2)
    agent.finish(one, 1)
    agent.finish(two, 1, exit_code=1)
    again = [TaskSpec(command="a", priority=5), TaskSpec(command="b"), TaskSpec(command="c"), TaskSpec(command="c")]
    report = queue.submit(again)
    assert (report.added, report.skipped) == (2, 2), "a is done and c came twice; b has failed, so it may come again"
    assert [queue.task(task_id).spec.command for task_id in report.ids] == ["b", "c"]  # type: ignore[union-attr]
    assert queue.submit([TaskSpec(command="a")], allow_duplicates=True).added == 1
    assert queue.submit([TaskSpec(command="a", cwd="elsewhere")]).added == 1, "other parameters are another task"


def test_higher_priority_goes_first_and_larger_tasks_before_smaller_ones(queue: Queue) -> None:
    add(queue, "low", priority=-1)
    add(queue, "small", cpus=1)
    add(queue, "large", cpus=3)
    add(queue, "urgent", priority=7)
    add(queue, "second small", cpus=1)
    agent = Scripted(queue, "h", cpus=16)
    order = [queue.task(task_id).spec.command for task_id, _ in agent.claim(9)]  # type: ignore[union-attr]
    assert order == ["urgent", "large", "small", "second small", "low"]


def test_a_claim_takes_what_fits_the_room_that_is_free(queue: Queue) -> None:
    big = add(queue, "big", cpus=4, memory_bytes=3 << 30)
    small = add(queue, "s1", "s2", "s3", cpus=0.5, memory_bytes=1 << 30)
    add(queue, "too big for this host", cpus=5)
    agent = Scripted(queue, "h", cpus=4, memory_mib=4096)
    assert [task_id for task_id, _ in agent.claim(9, cpu=1000, memory=4096)] == small[:2], "CPU for two"
    assert [task_id for task_id, _ in agent.claim(9, cpu=4000, memory=4096)] == big
    assert agent.claim(9, cpu=4000, memory=1023) == []
    assert [task_id for task_id, _ in agent.claim(9, cpu=4000, memory=1024)] == small[2:]
    assert agent.claim(9) == []


def test_what_one_class_takes_is_not_there_for_the_next(queue: Queue) -> None:
    urgent = add(queue, "u1", "u2", "u3", cpus=1, memory_bytes=1 << 30, priority=1)
    add(queue, "two CPUs", cpus=2)
    add(queue, "two GiB", cpus=0, memory_bytes=2 << 30)
    small = add(queue, "little", cpus=0.5, memory_bytes=1 << 29)
    agent = Scripted(queue, "h", cpus=4, memory_mib=4096)
    assert [task_id for task_id, _ in agent.claim(9)] == [*urgent, *small], (
        "one CPU and one GiB are left after the first"
    )


def test_tasks_taken_ahead_need_only_fit_the_host_as_a_whole(queue: Queue) -> None:
    add(queue, "more CPUs than it has", cpus=5)
    add(queue, "more memory than it has", memory_bytes=5 << 30, cpus=4)
    ids = add(queue, "a", "b", "c", "d", cpus=4)
    agent = Scripted(queue, "h", cpus=4, memory_mib=4096)
    assert [task_id for task_id, _ in agent.claim(4, ahead=2)] == ids[:3]


def test_a_large_task_gets_room_however_many_small_ones_wait(queue: Queue) -> None:
    queue.configure({"reserve_after_seconds": 0.1})
    large = add(queue, "large", cpus=4)
    add(queue, *(f"small {number}" for number in range(10)))
    agent, other = Scripted(queue, "h"), Scripted(queue, "other")
    first = agent.claim(1, cpu=2000)
    assert first[0][0] != large[0], "it does not fit, so smaller ones may fill in"
    time.sleep(0.15)
    assert agent.claim(1, cpu=2000) == [], "the room that is left is kept for it"
    assert other.claim(1, cpu=2000), "on one host only"
    assert agent.claim(1, cpu=4000) == [(large[0], 1)]
    assert agent.claim(1, cpu=2000), "and then the small ones go on"


def test_a_claim_whose_reply_was_lost_gives_the_same_tasks_again(queue: Queue) -> None:
    add(queue, "a", "b", "c", "d")
    agent = Scripted(queue, "h")
    first = agent.claim(2, token=1)
    assert agent.claim(2, token=1) == first == [(1, 1), (2, 1)]
    assert queue.counts().running == 2
    agent.finish(1, 1)
    assert agent.claim(2, token=1) == [(2, 1)], "what has ended meanwhile is not given again"
    assert agent.claim(2, token=2) == [(3, 1), (4, 1)]


def test_a_report_is_accepted_once_and_a_repeat_is_answered_the_same(queue: Queue) -> None:
    add(queue, "a", retries=1)
    agent = Scripted(queue, "h")
    agent.claim()
    assert [agent.finish(1, 1, exit_code=3) for _ in range(2)] == ["retry", "retry"]
    assert agent.claim() == [(1, 2)]
    assert [agent.finish(1, 2, stdout=b"\xff\0") for _ in range(2)] == ["ok", "ok"]
    record = queue.task(1)
    assert record
    assert (record.state, record.attempt, record.exit_code, record.seconds) == ("done", 2, 0, 1.0)
    assert [(entry.attempt, entry.reason) for entry in record.tries] == [(1, "exit 3")]
    assert queue.output(1).head == b"\xff\0"
    assert queue.counts().late == 0


def test_a_late_report_is_kept_aside_and_never_accepted(queue: Queue) -> None:
    add(queue, "a")
    slow, quick = Scripted(queue, "slow"), Scripted(queue, "quick")
    assert slow.claim() == [(1, 1)]
    assert queue.requeue_host("slow") == 1
    assert quick.claim() == [(1, 2)]
    assert slow.finish(1, 1, exit_code=5) == "late"
    assert quick.finish(1, 2) == "ok"
    assert slow.finish(1, 1, exit_code=5) == "late"
    record = queue.task(1)
    assert record
    assert (record.state, record.host, record.exit_code) == ("done", "quick", 0)
    assert list(queue.late()) == ["1:1"]
    assert queue.counts().late == 1


def test_a_host_with_room_for_thousands_of_tasks_gets_them_in_several_calls(queue: Queue) -> None:
    add(queue, *(f"echo {number}" for number in range(5000)))
    agent = Scripted(queue, "huge", cpus=2000)
    got: list[tuple[int, int]] = []
    statuses = []
    while len(got) < 5000:
        got += agent.claim(5000 - len(got), ahead=5000, cpu=10**9)
        statuses.append(agent.status)
    assert got == [(number, 1) for number in range(1, 5001)]
    assert statuses == ["more", "more", "ok"]
    assert agent.claim(token=agent.token) == got[4000:], "a repeat of the last"


def test_outcomes_come_in_order_each_once_and_go_on_from_a_cursor(queue: Queue) -> None:
    add(queue, *"abc")
    agent = Scripted(queue, "h")
    agent.claim(3)
    agent.finish(2, 1, exit_code=1)
    agent.finish(1, 1)
    first = list(queue.outcomes())
    assert [(record.id, record.state) for record in first] == [(2, "failed"), (1, "done")]
    queue.retry()
    agent.claim(1)
    agent.finish(2, 2)
    agent.finish(3, 1)
    assert [record.id for record in queue.outcomes(since=first[-1].cursor)] == [2, 3]
    assert [record.id for record in queue.outcomes()] == [1, 2, 3], "the first end of 2 does not count any more"


def test_wait_returns_as_soon_as_the_tasks_have_ended(queue: Queue) -> None:
    ids = add(queue, "a", "b")
    agent = Scripted(queue, "h")
    agent.claim(2)
    assert queue.wait(ids, timeout=0.2) is False
    seen = []
    timer = threading.Timer(0.3, lambda: [agent.finish(task_id, 1) for task_id in ids])
    timer.start()
    start = time.monotonic()
    assert queue.wait(ids, progress=seen.append, timeout=30)
    assert time.monotonic() - start < 15
    assert seen[-1].done == 2
    assert queue.wait(timeout=1), "nothing is left at all"
    timer.join()


def test_wait_notices_tasks_that_are_forgotten(queue: Queue) -> None:
    assert queue.wait([12345], timeout=5)


def test_a_dead_server_is_reported_as_such(server: Room) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        Queue.connect(str(server.folder / "nothing.sock"), "room")


def test_one_task_is_claimed_by_one_agent_however_many_ask(queue: Queue, server: Room) -> None:
    add(queue, *(f"echo {number}" for number in range(600)))
    got: list[int] = []

    def take_all(name: str) -> None:
        mine = Queue.connect(server.valkey.socket, "room")
        agent = Scripted(mine, name, cpus=64)
        while held := agent.claim(7):
            got.extend(task_id for task_id, _ in held)
        mine.close()

    threads = [threading.Thread(target=take_all, args=(f"h{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 601))


def test_agents_may_do_nothing_but_their_work(server: Room, queue: Queue) -> None:
    import redis

    client = redis.Redis(unix_socket_path=server.valkey.socket, username="agent", password="secret-of-agents")
    mine = Queue(client, "room")
    add(queue, "a")
    agent = Scripted(mine, "h")
    agent.beat(*agent.claim())
    assert agent.finish(1, 1) == "ok"
    mine.scripts.call("leave", agent.name)
    server.valkey.client().set("{roomful:other}:meta", "x")
    forbidden = [
        ["FLUSHALL"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["KEYS", "*"],
        ["GET", "{roomful:other}:meta"],
        # What it may do, but with its own queue's keys.
        ["HGET", "{roomful:other}:config", "x"],
        ["XREAD", "COUNT", "1", "STREAMS", "{roomful:other}:wake", "0"],
        ["EVALSHA", mine.scripts.load("leave"), "1", "{roomful:other}:", "h#1"],
    ]
    forbidden += [["EVAL", "return redis.call('HGET', KEYS[1], 'x')", "1", "{roomful:other}:meta"], ["SHUTDOWN"]]
    forbidden += [["CLIENT", "KILL", "TYPE", "normal"], ["SUBSCRIBE", "x"], ["MONITOR"]]
    for command in forbidden:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    client.close()


def test_a_queued_task_takes_little_of_the_servers_memory(queue: Queue, server: Room) -> None:
    """A task with a 50-byte command takes at most 250 bytes of the server's memory."""
    client = server.valkey.client()
    before = client.info("memory")["used_memory"]
    count = 100_000
    queue.submit(
        TaskSpec(command=f"./cachesim --trace data/w{number:09d}.bin --size 1GiB") for number in range(count)
    )
    used = (client.info("memory")["used_memory"] - before) / count
    assert len(f"./cachesim --trace data/w{0:09d}.bin --size 1GiB") == 50
    assert used < 250, f"{used:.0f} bytes a task"


def test_a_claim_costs_the_same_however_long_the_queue_is(queue: Queue) -> None:
    agent = Scripted(queue, "h", cpus=1000)

    def cost() -> float:
        best = 1e9
        for _ in range(7):
            start = time.process_time(), time.monotonic()
            held = agent.claim(50)
            best = min(best, time.monotonic() - start[1])
            agent.requeue("released", *((task_id, attempt, 0) for task_id, attempt in held))
        return best

    add(queue, *(f"first {number}" for number in range(1000)))
    short = cost()
    add(queue, *(f"more {number}" for number in range(200_000)))
    assert cost() < 3 * short + 0.001


@pytest.mark.parametrize("number", [1, 2])
def test_the_queue_of_another_cluster_is_another_queue(server: Room, queue: Queue, number: int) -> None:
    other = Queue.connect(f"unix://{server.valkey.socket}", f"other{number}")
    add(other, "a")
    assert queue.counts().total == 0
    assert other.counts().todo == 1
    other.close()


def test_a_woken_agent_hears_of_new_work(queue: Queue) -> None:
    agent = Scripted(queue, "h")
    assert agent.claim() == []
    client = queue._redis
    heard: list[object] = []
    thread = threading.Thread(target=lambda: heard.extend(client.xread({queue.keys.wake: "0-0"}, block=10_000)))
    thread.start()
    time.sleep(0.05)
    add(queue, "a")
    thread.join()
    assert heard
    wait_until(lambda: agent.claim() == [(1, 1)], 5)
