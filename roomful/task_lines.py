"""One line of a task file as a task: DistComp's colon-separated lines, and JSON lines.

Pure functions. They raise TaskFileError without a place; the reader of the file adds it.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from roomful.agent.attempt import command_line
from roomful.agent.task import TaskSpec
from roomful.errors import TaskFileError
from roomful.units import parse_cpus, parse_duration, parse_size, parse_whole

#: Linux takes at most this many bytes in one argument of a program (MAX_ARG_STRLEN, its NUL included).
LONGEST_COMMAND_BYTES = 128 * 1024 - 1

DISTCOMP_GRAMMAR = "write shell:PRIORITY:MIN_DRAM_GIB:MIN_CPU:COMMAND"
JSON_EXAMPLE = 'write {"command": "./prog 1", "memory": "4GiB", "cpus": 2}'

_GIB = 1024**3
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class TaskDefaults:
    """What tasks get that do not say it themselves; the meaning of each is TaskSpec's."""

    priority: int = 0
    memory_bytes: int = 0
    cpus: float = 1.0
    timeout: float | None = None
    retries: int | None = None

    def spec(self, command: str) -> TaskSpec:
        """Return a plain shell task with these defaults."""
        return TaskSpec(
            command=command,
            priority=self.priority,
            memory_bytes=self.memory_bytes,
            cpus=self.cpus,
            timeout=self.timeout,
            retries=self.retries,
        )


def checked(spec: TaskSpec) -> TaskSpec:
    """Return the task if the queue can hold it and a client can start it.

    Raises TaskFileError.
    """
    try:
        spec.check()
        if spec.kind == "python":
            command_line(spec)
        length = len(spec.command.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise TaskFileError(
            "a lone surrogate in the command", fix=r"write the character itself, or \udc80-\udcff"
        ) from None
    except ValueError as error:
        raise TaskFileError(str(error)) from None
    if length > LONGEST_COMMAND_BYTES:
        raise TaskFileError(
            f"the command has {length:,} bytes",
            why=f"Linux takes at most {LONGEST_COMMAND_BYTES:,} in one argument",
            fix="put it into a script and deploy that",
        )
    return spec


def parse_distcomp(line: bytes, defaults: TaskDefaults) -> TaskSpec:
    """Read ``TYPE:PRIORITY:MIN_DRAM:MIN_CPU:COMMAND``; only the first four colons separate, MIN_DRAM is in GiB.

    Raises TaskFileError.
    """
    fields = line.decode("utf-8", "surrogateescape").lstrip().split(":", 4)
    if len(fields) < 5:
        raise TaskFileError(f"only {len(fields)} of the 5 fields in {_shown(line)}", fix=DISTCOMP_GRAMMAR)
    kind, priority, memory, cpus, command = fields
    if kind not in ("shell", "python"):
        raise TaskFileError(f"task type {kind!r} is neither shell nor python", fix=DISTCOMP_GRAMMAR)
    return checked(
        TaskSpec(
            command=command,
            kind=kind,
            priority=_field("priority", priority, lambda text: parse_whole(text, negative=True)),
            memory_bytes=round(_field("min_dram", memory, parse_cpus) * _GIB),
            cpus=_field("min_cpu", cpus, parse_cpus),
            timeout=defaults.timeout,
            retries=defaults.retries,
        )
    )


def _field(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError:
        raise TaskFileError(f"{name} {text!r} is not a number", fix=DISTCOMP_GRAMMAR) from None


def parse_json(line: bytes, defaults: TaskDefaults) -> TaskSpec:
    """Read a JSON object with ``command`` or ``python``, and what the task needs.

    Raises TaskFileError.
    """
    try:
        document = json.loads(line.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise TaskFileError(
            "not UTF-8", why=f"byte {error.object[error.start]:#x} at column {error.start + 1}"
        ) from None
    except RecursionError:
        raise TaskFileError("nested too deeply", fix=JSON_EXAMPLE) from None
    except json.JSONDecodeError as error:
        raise TaskFileError("not JSON", why=f"{error.msg} at column {error.colno}", fix=JSON_EXAMPLE) from None
    except ValueError as error:
        raise TaskFileError("not JSON", why=str(error), fix=JSON_EXAMPLE) from None
    if not isinstance(document, dict):
        raise TaskFileError(f"not a JSON object: {_shown(line)}", fix=JSON_EXAMPLE)
    for key in document:
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"keys are: {', '.join(_READERS)}"
            raise TaskFileError(f"unknown key {key!r}", fix=fix)
    values: dict[str, Any] = {}
    for key, value in document.items():
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise TaskFileError(f"key {key!r}: {error}") from None
    kind, command = _command_of(values)
    return checked(
        TaskSpec(
            command=command,
            kind=kind,
            priority=values.get("priority", defaults.priority),
            memory_bytes=values.get("memory", defaults.memory_bytes),
            cpus=values.get("cpus", defaults.cpus),
            timeout=values.get("timeout", defaults.timeout),
            retries=values.get("retries", defaults.retries),
            **{key: values[key] for key in ("env", "cwd", "stdin", "outputs", "name", "tags") if key in values},
        )
    )


def _command_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and command line of a JSON task."""
    if ("command" in values) == ("python" in values):
        raise TaskFileError("a task has either 'command' or 'python'", fix=JSON_EXAMPLE)
    if "command" in values:
        for key in ("args", "kwargs"):
            if key in values:
                raise TaskFileError(f"key {key!r} goes with 'python'", fix="write the arguments into the command")
        return "shell", values["command"]
    target = values["python"]
    args, kwargs = values.get("args"), values.get("kwargs")
    if _FUNCTION.fullmatch(target):
        if args is not None and kwargs is not None:
            raise TaskFileError("a function takes either 'args' or 'kwargs'", fix="name all arguments in 'kwargs'")
        given = args or kwargs
        return "python", f"{target} {json.dumps(given)}" if given else target
    if kwargs is not None:
        raise TaskFileError("key 'kwargs' goes with module:function", fix="give a script its arguments as 'args'")
    if target.startswith("-") or not target.strip():
        raise TaskFileError(f"bad script {target!r}", fix='write "script.py" or "module:function"')
    try:
        return "python", shlex.join([target, *map(_word, args or ())])
    except ValueError as error:
        raise TaskFileError(f"key 'args': {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    if "\0" in value:
        raise ValueError("it contains a NUL character")
    value.encode("utf-8", "surrogateescape")
    return value


def _line(value: Any) -> str:
    if re.search(r"[\r\n]", _text(value)):
        raise ValueError(f"{value!r} has more than one line")
    return str(value)


def _word(value: Any) -> str:
    """An argument or a variable's value: text, or a whole number written without quotes."""
    return str(value) if type(value) is int else _text(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _with_unit(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: parse(value if isinstance(value, str) else json.dumps(value))


def _list(value: Any, item: Callable[[Any], str] = _line) -> tuple[str, ...]:
    return tuple(item(entry) for entry in _container(value, list, "list"))


def _container(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is not a JSON {name}")
    return value


def _environment(value: Any) -> dict[str, str]:
    for name in _container(value, dict, "object of names and values"):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"bad name of an environment variable {name!r}")
    return {name: _word(entry) for name, entry in value.items()}


def _inside(value: Any) -> str:
    """A path that stays below the folder that the task runs in."""
    path = PurePosixPath(_line(value))
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
        raise ValueError(f"path {value!r} is not below the folder that the task runs in")
    return str(path)


#: What a JSON line may say, and how each value is read.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "command": _text,
    "python": _line,
    "args": lambda value: _container(value, list, "list"),
    "kwargs": lambda value: _container(value, dict, "object of names and values"),
    "priority": _whole,
    "memory": _with_unit(parse_size),
    "cpus": _number,
    "timeout": _with_unit(parse_duration),
    "retries": _whole,
    "env": _environment,
    "cwd": _line,
    "stdin": _line,
    "outputs": lambda value: _list(value, _inside),
    "name": _line,
    "tags": _list,
}


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
