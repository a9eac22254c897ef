"""Which experiments there are: ``@reg_exp`` puts them here while their file is loaded."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from roomful.errors import InputError
from roomful.experiments.grid import ParameterGrid, label
from roomful.experiments.servers import ServerList

F = TypeVar("F", bound=Callable[..., Any])

#: To call what one of these is true of runs nothing of it.
_RUN_NOTHING = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


@dataclass(frozen=True)
class Registration:
    """One use of ``@reg_exp``. ``tolerant``: unreachable servers do not fail it (version 1)."""

    group: str
    file: str
    function: Callable[..., Any]
    servers: ServerList
    params: ParameterGrid | None = None
    max_restarts: int = 0
    raise_on_rc: bool = True
    run_always: bool = False
    repeat: int = 1
    tolerant: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def count(self, most: int) -> int:
        """Count its experiments, up to about ``most``."""
        return self.repeat * (self.params.count(most) if self.params else 1)

    def experiments(self) -> Iterator[Experiment]:
        """Yield one experiment for each combination of parameters and each repetition."""
        for repetition in range(1, self.repeat + 1):
            for params in self.params or [{}]:
                yield Experiment(self, params, repetition)


@dataclass(frozen=True)
class Experiment:
    """One thing to run: a function with its parameters, the ``repetition``-th time.

    ``occurrence`` tells those apart that a file registers several times alike.
    """

    registration: Registration
    params: dict[str, Any] = field(hash=False, default_factory=dict)
    repetition: int = 1
    occurrence: int = 1

    @property
    def name(self) -> str:
        """The function's name with the parameters: ``grid__a=4_b=4_to_file=False``."""
        name = self.registration.name
        if self.registration.params:
            name = f"{name}__{label(self.params)}"
        return name if self.registration.repeat == 1 else f"{name}__repeat={self.repetition}"

    @property
    def servers(self) -> ServerList:
        """What it runs on."""
        return self.registration.servers


class Registry:
    """The registrations of a run, in the order they were made."""

    def __init__(self) -> None:
        self.registrations: list[Registration] = []

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Take in what ``@reg_exp`` registers in the meantime."""
        token = _collecting.set(self)
        try:
            yield
        finally:
            _collecting.reset(token)


_collecting: ContextVar[Registry | None] = ContextVar("registry", default=None)


def reg_exp(
    servers: ServerList | None = None,
    params: ParameterGrid | None = None,
    max_restarts: int = 0,
    raise_on_rc: bool = True,
    run_always: bool = False,
    *,
    repeat: int = 1,
) -> Callable[[F], F]:
    """Register a function as an experiment, or as many as ``params`` has combinations.

    It is called with ``servers`` and its parameters. ``max_restarts``: how often it may return Action.RESTART, 0 for
    any number. ``raise_on_rc``: a command's exit code other than 0 fails it at once. ``run_always``: even if
    ``--resume`` or ``--filter`` would leave it out. ``repeat``: run everything so often, in random order.
    """
    where = _caller()
    if not isinstance(servers, ServerList):
        raise InputError(f"servers is {servers!r}", where=where, fix="give @reg_exp(servers=ServerList(...))")
    if params is not None and not isinstance(params, ParameterGrid):
        raise InputError(f"params is {params!r}", where=where, fix="give a ParameterGrid(...)")
    numbers: list[tuple[str, Any, int]] = [("max_restarts", max_restarts, 0), ("repeat", repeat, 1)]
    for name, value, least in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}", where=where, fix=f"give a whole number from {least}")
    file = where.rpartition(":")[0]
    group = os.path.splitext(os.path.basename(file))[0]

    def register(function: F) -> F:
        if not callable(function):
            raise InputError(f"@reg_exp is for functions, not {function!r}", where=where)
        if any(is_such(function) for is_such in _RUN_NOTHING):
            why = "to call it runs nothing: it is a generator or async"
            raise InputError(
                f"@reg_exp cannot run {function.__name__}", where=where, why=why, fix="write a plain def"
            )
        registry = _collecting.get()
        if registry is not None:
            registry.registrations.append(
                Registration(group, file, function, servers, params, max_restarts, raise_on_rc, run_always, repeat)
            )
        return function

    return register


def _caller() -> str:
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame else None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ":0"


def add_registration(registration: Registration) -> None:
    """Register what was made otherwise than by ``@reg_exp``."""
    registry = _collecting.get()
    if registry is not None:
        registry.registrations.append(registration)
