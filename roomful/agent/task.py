"""A unit of work, and how it is written down in the queue."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple

MIB = 1024 * 1024

#: Priorities beyond this do not fit into the score that orders the classes.
PRIORITY_LIMIT = 1_000_000
#: Most CPUs, and most memory in MiB, that a task may ask for; they share one score with the priority.
CPU_LIMIT = 2048
MEMORY_LIMIT_MIB = 64 * 1024 * 1024

#: What makes two tasks the same work, besides the command.
_IDENTITY = ("kind", "env", "cwd", "stdin", "outputs")
#: How a task is to be handled; two tasks that differ only here are duplicates.
_POLICY = ("timeout", "retries", "name", "tags")


@dataclass(frozen=True)
class TaskSpec:
    """What the user wants done, and what it needs.

    Text that is not UTF-8 travels as surrogate escapes (``os.fsdecode``), so commands are kept byte for byte.
    """

    #: ``shell``: a line for ``/bin/sh``; ``python``: ``SCRIPT.py ARGUMENTS...`` or ``MODULE:FUNCTION [JSON]``.
    command: str
    kind: str = "shell"
    #: Higher runs first.
    priority: int = 0
    #: CPUs, fractions allowed; kept in thousandths.
    cpus: float = 1.0
    #: Memory that must be free for it; 0: nothing declared. Kept in MiB, large values rounded up by at most 1.6 %.
    memory_bytes: int = 0
    #: Seconds; None: no limit.
    timeout: float | None = None
    #: How often it may be tried again after failing by itself; None: the queue's setting (0 unless changed).
    retries: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    #: Relative to the client's workdir.
    cwd: str = ""
    #: File on the client, relative to ``cwd``; empty: /dev/null.
    stdin: str = ""
    #: Files that it makes, relative to ``cwd``, for ``collect`` to bring back.
    outputs: tuple[str, ...] = ()
    name: str = ""
    tags: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse values that the queue cannot hold.

        Raises ValueError with a sentence about the first bad field.
        """
        if self.kind not in ("shell", "python"):
            raise ValueError(f"kind {self.kind!r} is neither shell nor python")
        if not self.command.strip():
            raise ValueError("empty command")
        if "\0" in self.command:
            raise ValueError("the command contains a NUL byte")
        if type(self.priority) is not int or abs(self.priority) > PRIORITY_LIMIT:
            raise ValueError(f"priority {self.priority!r} is not a whole number within +-{PRIORITY_LIMIT}")
        if not 0 <= self.cpus <= CPU_LIMIT:
            raise ValueError(f"{self.cpus!r} CPUs is not within 0 and {CPU_LIMIT}")
        if not 0 <= self.memory_bytes <= MEMORY_LIMIT_MIB * MIB:
            raise ValueError(f"memory of {self.memory_bytes!r} bytes is not within 0 and {MEMORY_LIMIT_MIB} MiB")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout {self.timeout!r} is not a number of seconds above 0")
        if self.retries is not None and (type(self.retries) is not int or not 0 <= self.retries <= 1000):
            raise ValueError(f"retries {self.retries!r} is not a whole number within 0 and 1000")
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise ValueError(f"bad environment variable {name!r}")
        for path in (self.cwd, self.stdin, *self.outputs):
            if "\0" in path:
                raise ValueError(f"bad path {path!r}")


class TaskClass(NamedTuple):
    """What the queue sorts tasks by: tasks of one class wait in one list."""

    priority: int
    cpu_milli: int
    memory_mib: int

    @classmethod
    def of(cls, priority: int, cpus: float, memory_bytes: int) -> TaskClass:
        """Return the class of a task with these needs."""
        return cls(priority, math.ceil(cpus * 1000 - 1e-6), round_memory(math.ceil(memory_bytes / MIB)))

    @classmethod
    def parse(cls, text: bytes) -> TaskClass:
        """Read ``PRIORITY,CPU_MILLI,MEMORY_MIB``."""
        priority, cpu, memory = text.split(b",")
        return cls(int(priority), int(cpu), int(memory))

    def __str__(self) -> str:
        return f"{self.priority},{self.cpu_milli},{self.memory_mib}"


def round_memory(mib: int) -> int:
    """Round up to six significant bits, so that odd sizes do not make a class each (at most 64 in an octave)."""
    step = 1 << max(0, mib.bit_length() - 7)
    return -(-mib // step) * step


def encode_task(spec: TaskSpec) -> bytes:
    r"""Pack a task: ``CLASS LF POLICY LF IDENTITY LF COMMAND``.

    CLASS is ``priority,cpu_milli,memory_mib``; POLICY and IDENTITY are JSON objects of the fields that differ from
    their defaults, empty where none does; the command comes last because it may contain line feeds. All after the
    second LF is what makes a duplicate.
    """
    head = str(TaskClass.of(spec.priority, spec.cpus, spec.memory_bytes))
    text = f"{head}\n{_pack(spec, _POLICY)}\n{_pack(spec, _IDENTITY)}\n{spec.command}"
    return text.encode("utf-8", "surrogateescape")


def digest_of(payload: bytes) -> str:
    """Return what a task's duplicates share; ``digest_of`` in ``lua/common.lua`` makes the same."""
    return hashlib.sha1(payload.split(b"\n", 2)[2]).hexdigest()[:20]


def decode_task(payload: bytes) -> TaskSpec:
    """Unpack what ``encode_task`` packed, or raise ValueError."""
    head, policy, identity, command = payload.split(b"\n", 3)
    group = TaskClass.parse(head)
    fields = {**_unpack(policy, _POLICY), **_unpack(identity, _IDENTITY)}
    for name in ("outputs", "tags"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return TaskSpec(
        command=command.decode("utf-8", "surrogateescape"),
        priority=group.priority,
        cpus=group.cpu_milli / 1000,
        memory_bytes=group.memory_mib * MIB,
        **fields,
    )


_DEFAULTS: Mapping[str, Any] = {
    "kind": "shell", "env": {}, "cwd": "", "stdin": "", "outputs": (),
    "timeout": None, "retries": None, "name": "", "tags": (),
}  # fmt: skip


def _pack(spec: TaskSpec, names: tuple[str, ...]) -> str:
    values = {name: getattr(spec, name) for name in names if getattr(spec, name) != _DEFAULTS[name]}
    # Keys in order, so that equal tasks are equal bytes; ASCII, so that no surrogate is left to encode.
    return json.dumps(values, sort_keys=True, separators=(",", ":"), default=dict) if values else ""


def _unpack(text: bytes, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not text:
        return {}
    values = json.loads(text)
    if not isinstance(values, dict) or not set(values) <= set(names):
        raise ValueError(f"unexpected fields in {text!r}")
    return values
