"""One line of a task file: DistComp's and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roomful.agent.attempt import command_line
from roomful.agent.task import TaskSpec, decode_task, encode_task
from roomful.errors import TaskFileError
from roomful.task_lines import LONGEST_COMMAND_BYTES, TaskDefaults, parse_distcomp, parse_json

NONE = TaskDefaults()
GIB = 2**30


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            b"shell:4:2:2:./cachesim PARAM1 PARAM2",
            TaskSpec("./cachesim PARAM1 PARAM2", priority=4, memory_bytes=2 * GIB, cpus=2.0),
            id="the seed's own example",
        ),
        pytest.param(b"shell:0:0:1:a:b: c::", TaskSpec("a:b: c::"), id="colons in the command"),
        pytest.param(
            b"shell:-3:0.5:0.25:x", TaskSpec("x", priority=-3, memory_bytes=GIB // 2, cpus=0.25), id="fractions"
        ),
        pytest.param(b"python:0:0:1:run.py 'a b'", TaskSpec("run.py 'a b'", kind="python"), id="python script"),
        pytest.param(b'python:0:0:1:m.n:f {"a": 1}', TaskSpec('m.n:f {"a": 1}', kind="python"), id="python function"),
        pytest.param(b"shell:0:0:1:echo \xff", TaskSpec("echo \udcff"), id="bytes that are no UTF-8"),
        pytest.param(b"  shell:0:0:1: x", TaskSpec(" x"), id="indented; the command keeps its blanks"),
    ],
)
def test_distcomp_lines(line: bytes, expected: TaskSpec) -> None:
    assert parse_distcomp(line, NONE) == expected


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"shell:4:2:./x", "only 4 of the 5 fields in 'shell:4:2:./x'"),
        (b"docker:4:2:2:./x", "task type 'docker' is neither shell nor python"),
        (b"shell:high:2:2:./x", "priority 'high' is not a number"),
        (b"shell:1.5:2:2:./x", "priority '1.5' is not a number"),
        (b"shell:4:2GiB:2:./x", "min_dram '2GiB' is not a number"),
        (b"shell:4:2:-1:./x", "min_cpu '-1' is not a number"),
        (b"shell:4:nan:1:./x", "min_dram 'nan' is not a number"),
        (b"shell:4:2:2:", "empty command"),
        (b"shell:4:2:2:  ", "empty command"),
        (b"shell:9999999:2:2:x", r"priority 9999999 is not a whole number within \+-1000000"),
        (b"shell:4:2:5000:x", "5000.0 CPUs is not within 0 and 2048"),
        (b"python:4:2:2:run.py 'a", "No closing quotation"),
        (b"python:4:2:2:m:f {a}", "the arguments are not JSON"),
    ],
)
def test_bad_distcomp_lines(line: bytes, says: str) -> None:
    with pytest.raises(TaskFileError, match=says):
        parse_distcomp(line, NONE)


def test_a_json_line_can_say_everything() -> None:
    document = {
        "command": "./prog", "priority": 4, "memory": "4GiB", "cpus": 1.5, "timeout": "1h30m", "retries": 2,
        "env": {"A": "b", "N": 4}, "cwd": "sub", "stdin": "in.txt", "outputs": ["out/a", "./b//c"], "name": "n",
        "tags": ["x", "y"],
    }  # fmt: skip
    assert parse_json(json.dumps(document).encode(), NONE) == TaskSpec(
        "./prog", priority=4, memory_bytes=4 * GIB, cpus=1.5, timeout=5400.0, retries=2, env={"A": "b", "N": "4"},
        cwd="sub", stdin="in.txt", outputs=("out/a", "b/c"), name="n", tags=("x", "y"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("document", "argv"),
    [
        ({"python": "run.py"}, ["run.py"]),
        ({"python": "my run.py", "args": ["a b", 5, "$x"]}, ["my run.py", "a b", "5", "$x"]),
    ],
)
def test_a_python_script_gets_its_arguments_exactly(document: dict[str, Any], argv: list[str]) -> None:
    spec = parse_json(json.dumps(document).encode(), NONE)
    assert spec.kind == "python"
    assert command_line(spec)[1:] == [word.encode() for word in argv]


@pytest.mark.parametrize(
    ("document", "given"),
    [
        ({"python": "m.n:f"}, []),
        ({"python": "m.n:f", "kwargs": {"a": [1, None], "b": "é\n"}}, {"a": [1, None], "b": "é\n"}),
        ({"python": "m:f", "args": [1, {"x": 2.5}]}, [1, {"x": 2.5}]),
    ],
)
def test_a_python_function_gets_its_arguments_exactly(document: dict[str, Any], given: Any) -> None:
    words = command_line(parse_json(json.dumps(document).encode(), NONE))
    assert words[3] == document["python"].encode()
    assert json.loads(words[4]) == given


def test_a_json_command_may_hold_any_bytes_by_escapes() -> None:
    spec = parse_json(b'{"command": "echo \\udcff\\n\xc3\xa9"}', NONE)
    assert encode_task(spec).endswith(b"\necho \xff\n\xc3\xa9")
    assert decode_task(encode_task(spec)) == spec


def test_defaults_are_for_what_a_line_does_not_say() -> None:
    defaults = TaskDefaults(priority=7, memory_bytes=GIB, cpus=3.0, timeout=9.0, retries=1)
    assert parse_json(b'{"command": "x", "priority": 0}', defaults) == TaskSpec(
        "x", priority=0, memory_bytes=GIB, cpus=3.0, timeout=9.0, retries=1
    )
    assert parse_distcomp(b"shell:0:0:1:x", defaults) == TaskSpec("x", timeout=9.0, retries=1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"command": "x"', "not JSON: Expecting ',' delimiter at column 16"),
        (b'{"command": "x"} {}', "not JSON: Extra data at column 18"),
        (b"[1]", r"not a JSON object: '\[1\]'"),
        (b"{}", "a task has either 'command' or 'python'"),
        (b'{"command": "x", "python": "y.py"}', "a task has either 'command' or 'python'"),
        (b'{"command": "x", "memry": "1GiB"}', "unknown key 'memry'; did you mean 'memory'"),
        (b'{"command": "x", "zzz": 1}', "unknown key 'zzz'; keys are: command, python"),
        (b'{"command": "x", "command": "y"}', "key 'command' is there twice"),
        (b'{"command": 5}', "key 'command': 5 is not text"),
        (b'{"command": "a\\u0000b"}', "key 'command': it contains a NUL character"),
        (b'{"command": "\\ud800"}', "key 'command': 'utf-8' codec can't encode"),
        (b'{"command": ""}', "empty command"),
        (b'{"command": "\xff"}', "not UTF-8: byte 0xff at column 14"),
        (b'{"command": "x", "memory": 4}', "key 'memory': size '4' has no unit"),
        (b'{"command": "x", "memory": null}', "key 'memory': bad size 'null'"),
        (b'{"command": "x", "timeout": 300}', "key 'timeout': duration '300' has no unit"),
        (b'{"command": "x", "timeout": "0s"}', "timeout 0.0 is not a number of seconds above 0"),
        (b'{"command": "x", "cpus": "2"}', "key 'cpus': '2' is not a number"),
        (b'{"command": "x", "cpus": NaN}', "not JSON: NaN is not a JSON number"),
        (b'{"command": "x", "cpus": true}', "key 'cpus': True is not a number"),
        (b'{"command": "x", "priority": 1.5}', "key 'priority': 1.5 is not a whole number"),
        (b'{"command": "x", "retries": -1}', "retries -1 is not a whole number within"),
        (b'{"command": "x", "env": {"A=B": "c"}}', "bad name of an environment variable 'A=B'"),
        (b'{"command": "x", "env": ["A"]}', r"key 'env': \['A'\] is not a JSON object"),
        (b'{"command": "x", "env": {"A": 1.5}}', "key 'env': 1.5 is not text"),
        (b'{"command": "x", "outputs": "a"}', "key 'outputs': 'a' is not a JSON list"),
        (b'{"command": "x", "outputs": ["../a"]}', "path '../a' is not below the folder"),
        (b'{"command": "x", "outputs": ["/a"]}', "path '/a' is not below the folder"),
        (b'{"command": "x", "cwd": "a\\nb"}', "has more than one line"),
        (b'{"command": "x", "args": ["a"]}', "key 'args' goes with 'python'"),
        (b'{"python": "x.py", "kwargs": {}}', "key 'kwargs' goes with module:function"),
        (b'{"python": "x.py", "args": [1.5]}', "key 'args': 1.5 is not text"),
        (b'{"python": "m:f", "args": [], "kwargs": {}}', "either 'args' or 'kwargs'"),
        (b'{"python": "-c"}', "bad script '-c'"),
        (b'{"command": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"command": "x", "priority": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else None,
)
def test_bad_json_lines(line: bytes, says: str) -> None:
    with pytest.raises(TaskFileError, match=says):
        parse_json(line, NONE)


def test_a_command_that_linux_could_not_start_is_refused() -> None:
    longest = b"x" * LONGEST_COMMAND_BYTES
    assert parse_distcomp(b"shell:0:0:1:" + longest, NONE).command == longest.decode()
    with pytest.raises(TaskFileError, match="the command has 131,072 bytes: Linux takes at most 131,071"):
        parse_distcomp(b"shell:0:0:1:x" + longest, NONE)
