"""Tasks survive being packed, and equal work packs equally."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.agent.task import MIB, TaskClass, TaskSpec, decode_task, encode_task, round_memory

#: What os.fsdecode makes of any bytes: no other surrogates.
PATHLIKE = st.binary(min_size=1).map(lambda raw: raw.replace(b"\0", b"x").decode("utf-8", "surrogateescape"))
SPECS = st.builds(
    TaskSpec,
    command=PATHLIKE,
    kind=st.sampled_from(["shell", "python"]),
    priority=st.integers(-1_000_000, 1_000_000),
    cpus=st.integers(0, 64_000).map(lambda milli: milli / 1000),
    memory_bytes=st.integers(0, 127).map(lambda mib: mib * MIB),
    timeout=st.none() | st.floats(0.001, 1e9),
    retries=st.none() | st.integers(0, 1000),
    env=st.dictionaries(PATHLIKE, PATHLIKE, max_size=3),
    cwd=PATHLIKE,
    stdin=PATHLIKE,
    outputs=st.lists(PATHLIKE, max_size=3).map(tuple),
    name=PATHLIKE,
    tags=st.lists(PATHLIKE, max_size=3).map(tuple),
)


@given(SPECS)
def test_what_was_packed_comes_back(spec: TaskSpec) -> None:
    assert decode_task(encode_task(spec)) == spec


@given(SPECS)
def test_the_head_is_free_of_the_commands_line_feeds(spec: TaskSpec) -> None:
    assert encode_task(spec).split(b"\n", 3)[3] == spec.command.encode("utf-8", "surrogateescape")


def test_a_plain_task_costs_little_more_than_its_command() -> None:
    assert encode_task(TaskSpec(command="echo hi")) == b"0,1000,0\n\n\necho hi"


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"priority": 3, "cpus": 2, "timeout": 5.0, "retries": 1, "name": "x", "tags": ("y",)}, True),
        ({"cwd": "sub"}, False),
        ({"env": {"A": "1"}}, False),
        ({"kind": "python"}, False),
        ({"stdin": "file"}, False),
        ({"outputs": ("file",)}, False),
    ],
)
def test_only_what_the_work_is_makes_a_duplicate(fields: dict[str, object], same: bool) -> None:
    def identity(spec: TaskSpec) -> bytes:
        return encode_task(spec).split(b"\n", 2)[2]

    plain = TaskSpec(command="echo")
    assert (identity(TaskSpec(command="echo", **fields)) == identity(plain)) is same  # type: ignore[arg-type]


def test_the_order_of_variables_makes_no_other_task() -> None:
    one = TaskSpec(command="x", env={"A": "1", "B": "2"})
    two = TaskSpec(command="x", env={"B": "2", "A": "1"})
    assert encode_task(one) == encode_task(two)


@given(st.integers(0, 64 * 1024 * 1024))
def test_rounded_memory_is_never_less_and_little_more(mib: int) -> None:
    assert mib <= round_memory(mib) <= mib * 1.0157 + 1
    assert round_memory(round_memory(mib)) == round_memory(mib)


def test_odd_sizes_make_few_classes() -> None:
    assert len({round_memory(mib) for mib in range(1, 1024 * 1024)}) <= 64 * 15


@pytest.mark.parametrize(
    ("cpus", "memory", "wanted"),
    [(1, 0, (5, 1000, 0)), (0.1 + 0.2, 1, (5, 300, 1)), (0.0001, MIB, (5, 1, 1)), (2.5, MIB + 1, (5, 2500, 2))],
)
def test_needs_are_rounded_up(cpus: float, memory: int, wanted: tuple[int, int, int]) -> None:
    assert TaskClass.of(5, cpus, memory) == wanted
    assert TaskClass.parse(str(TaskClass(*wanted)).encode()) == wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"command": "  "}, "empty command"),
        ({"command": "a\0b"}, "NUL"),
        ({"kind": "perl"}, "kind 'perl'"),
        ({"priority": 1_000_001}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"cpus": -1}, "CPUs"),
        ({"cpus": float("nan")}, "CPUs"),
        ({"memory_bytes": -1}, "memory"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"env": {"A=B": "x"}}, "'A=B'"),
        ({"cwd": "a\0b"}, "bad path"),
    ],
)
def test_what_the_queue_cannot_hold_is_refused(fields: dict[str, object], said: str) -> None:
    TaskSpec(command="echo").check()
    with pytest.raises(ValueError, match=said):
        TaskSpec(**{"command": "echo", **fields}).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", [b"", b"1,2,3", b"a,b,c\n\n\nx", b"0,1000,0\n[]\n\nx", b'0,1,0\n{"odd":1}\n\nx'])
def test_what_was_not_packed_by_us_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode_task(payload)
