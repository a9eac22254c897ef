"""What the queue's structures say, read without a server."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.agent.task import TaskSpec, encode_task
from roomful.queue_wire import (
    CHUNK_BYTES,
    CHUNK_TASKS,
    chunks,
    host_of,
    merge_ranges,
    pack_command,
    parse_client,
    parse_output,
    parse_task,
)
from roomful.records import Output, Try

PAYLOAD = encode_task(TaskSpec(command="echo"))


def test_a_task_that_nobody_has_tried_waits() -> None:
    record = parse_task(7, PAYLOAD, None, None, None)
    assert (record.id, record.state, record.attempt, record.spec.command) == (7, "todo", 0, "echo")


def test_a_running_task_knows_its_agent_and_its_earlier_tries() -> None:
    tries = {
        "attempt": 1,
        "failures": 1,
        "losses": 0,
        "hosts": ["a"],
        "log": [[1, "a", "exit 2", "", "1700000000000"]],
    }
    record = parse_task(7, PAYLOAD, b"2,1700000000500,user@b,c#3", None, json.dumps(tries).encode())
    assert (record.state, record.attempt, record.host, record.agent) == ("running", 2, "user@b,c", "user@b,c#3")
    assert record.tries == (Try(1, "a", "exit 2", "", 1_700_000_000_000),)


def test_a_result_outranks_everything_else() -> None:
    said = {"signal": 9, "reason": "signal 9", "memory": 4096, "cpu": 0.5}
    result = b"failed,3,1000,9000,2500,h#1\n" + json.dumps(said).encode()
    record = parse_task(7, PAYLOAD, b"4,1,x#1", result, b'{"attempt":3,"log":{},"hosts":{}}')
    assert (record.state, record.attempt, record.signal, record.exit_code) == ("failed", 3, 9, None)
    assert (record.claimed_ms, record.started_ms, record.ended_ms, record.seconds) == (1000, 6500, 9000, 2.5)
    assert (record.peak_memory_bytes, record.cpu_seconds, record.tries) == (4096, 0.5, ())


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"null", b"\xff"])
def test_unreadable_details_lose_only_the_details(broken: bytes) -> None:
    record = parse_task(7, PAYLOAD, None, b"done,1,1,2,1,h#1\n" + broken, broken)
    assert (record.state, record.host, record.reason) == ("done", "h", "")


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (None, Output(b"", b"", 0, "", "h")),
        (b"\nabc\n", Output(b"abc\n", b"", 4, "", "h")),
        (b"\n\n", Output(b"\n", b"", 1, "", "h")),
        (b"100 /tmp/a b\nheadtail", Output(b"head", b"tail", 100, "/tmp/a b", "h")),
        (b"100 \nheadtail", Output(b"head", b"tail", 100, "", "h")),
    ],
)
def test_outputs_are_told_apart_by_their_first_line(stored: bytes | None, wanted: Output) -> None:
    assert parse_output(stored, "h") == wanted
    assert wanted.complete == (wanted.size < 100)


def test_an_agent_is_silent_after_a_while() -> None:
    beat = b'{"load":1.5,"memory_free":7,"running":2,"waiting":3,"slots":4}'
    record = parse_client("u@h#12", b'{"cpus":2,"memory":9,"slots":2}', beat, 1.0, {"u@h done": 5, "u@h failed": 1})
    assert (record.host, record.state, record.slots, record.cpus, record.memory_bytes) == ("u@h", "live", 4, 2.0, 9)
    assert (record.running, record.waiting, record.done, record.failed, record.load) == (2, 3, 5, 1, 1.5)
    assert parse_client("h#1", b"{}", None, 9.0, {}).state == "silent"


@pytest.mark.parametrize(("agent", "host"), [("h#1", "h"), ("a#b#2", "a#b"), ("user@h:22#10", "user@h:22"), ("", "")])
def test_the_host_is_what_precedes_the_incarnation(agent: str, host: str) -> None:
    assert host_of(agent) == host


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair)))))
def test_merged_ranges_hold_the_same_ids_and_do_not_touch(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert {n for a, b in merged for n in range(a, b + 1)} == {n for a, b in ranges for n in range(a, b + 1)}
    assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(merged))


def test_chunks_are_bounded_in_number_and_size() -> None:
    sizes = [len(chunk) for chunk in chunks(TaskSpec(command=str(number)) for number in range(CHUNK_TASKS * 2 + 5))]
    assert sizes == [CHUNK_TASKS, CHUNK_TASKS, 5]
    large = [TaskSpec(command="x" * (CHUNK_BYTES // 3)) for _ in range(7)]
    assert [len(chunk) for chunk in chunks(large)] == [2, 2, 2, 1]
    assert list(chunks([])) == []


def test_a_command_is_packed_as_the_protocol_says() -> None:
    assert pack_command([b"SET", b"", b"\r\n"]) == b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n"
