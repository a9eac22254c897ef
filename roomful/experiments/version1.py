"""distexprunner's first version: experiments are classes derived from ``experiment.Base``."""

from __future__ import annotations

import itertools
import re
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from roomful.errors import InputError
from roomful.experiments.aliases import DaemonServer, module_of
from roomful.experiments.errors import ExperimentFailed
from roomful.experiments.handlers import Console, File
from roomful.experiments.helpers import sleep
from roomful.experiments.outcomes import Action
from roomful.experiments.registry import Registration, add_registration
from roomful.experiments.servers import Server, ServerList
from roomful.experiments.session import current


class Version1Server(DaemonServer):
    """A server whose attributes are read as ``server.data.name``."""

    def __init__(self, id: Any, ip: Any, port: Any = 20000, **attributes: Any) -> None:
        super().__init__(id, ip, port)
        self.data = types.SimpleNamespace(**attributes)


class Base:
    """What every experiment derives from."""

    SERVERS: ClassVar[list[Server]] = []
    #: Run it even if ``--resume`` or ``--filter`` would leave it out.
    RUN_ALWAYS: ClassVar[bool] = False

    def experiment(self, target: Callable[[Any], Server]) -> Any:
        """Run the experiment; ``target(id)`` gives a server."""
        del target
        raise InputError(f"{type(self).__name__} has no method experiment(self, target)")


class NoConnectionError(ExperimentFailed):
    """Report a server that cannot be reached."""


class Restart(Exception):  # distexprunner's name
    """Ask for the experiment to be run again."""


class Printer(Console):
    """Write each line to the log, as ``fmt.format(line=line)``."""

    def __init__(self, fmt: str = "{line}", rstrip: bool = False, end: str = "") -> None:
        del rstrip, end  # a line of the log ends by itself
        super().__init__(fmt.replace("%", "%%").replace("{line}", "%s").strip("\n"))


class Grid:
    """Register the class that ``factory`` makes of every combination of the axes."""

    def __init__(self, factory: Callable[..., Any], *axes: Iterable[Any]) -> None:
        register_made(factory, itertools.product(*axes))


class Generator:
    """Register the class that ``factory`` makes of every tuple of parameters."""

    def __init__(self, factory: Callable[..., Any], combinations: Iterable[tuple[Any, ...]]) -> None:
        register_made(factory, combinations)


def register_made(factory: Callable[..., Any], combinations: Iterable[tuple[Any, ...]]) -> None:
    """Register classes that a factory makes; their names get the parameters: ``exp3_x_5``."""
    for params in combinations:
        made = factory(*params)
        if not isinstance(made, type) or not issubclass(made, Base):
            raise InputError(
                f"the factory made {made!r}", where="experiment.factory", fix="derive from experiment.Base"
            )
        made.__name__ += "".join(f"_{value}" for value in params)
        file = factory.__code__.co_filename
        register_class(made, Path(file).stem, file)


def _is_experiment(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Base)


def register_class(cls: type[Base], group: str, file: str) -> None:
    """Register one class as an experiment."""

    def function(servers: ServerList) -> Any:
        def target(server: Any) -> Server:
            name = server.id if isinstance(server, Server) else server
            session = current()
            if session is None or name not in session.hosts:
                raise NoConnectionError(f"no connection to {name}")
            return servers[name]

        try:
            return cls().experiment(target)
        except Restart:
            return Action.RESTART

    function.__name__ = cls.__name__
    servers = ServerList(cls.SERVERS)
    always = bool(cls.RUN_ALWAYS)
    add_registration(
        Registration(group, file, function, servers, raise_on_rc=False, run_always=always, tolerant=True)
    )


def register_module(module: types.ModuleType, group: str) -> None:
    """Register the classes that a file defines."""
    for value in list(vars(module).values()):
        if _is_experiment(value) and value.__module__ == module.__name__:
            register_class(value, group, str(module.__file__))


def modules() -> dict[str, types.ModuleType]:
    """Return the modules that version 1 files import, and a ``time`` whose ``sleep`` lets handlers run."""
    errors = module_of("experiment.errors", {"NoConnectionError": NoConnectionError})
    actions = module_of("experiment.actions", {"Restart": Restart})
    factory = module_of("experiment.factory", {"Grid": Grid, "Generator": Generator})
    names = {"Base": Base, "Server": Version1Server, "Printer": Printer, "Logfile": File}
    experiment = module_of("experiment", {**names, "errors": errors, "actions": actions, "factory": factory})
    clock = types.ModuleType("time")
    clock.__dict__.update({**vars(time), "sleep": sleep})
    return {module.__name__: module for module in (experiment, errors, actions, factory, clock)}


def natural_key(name: str) -> list[tuple[int, float, str]]:
    """Sort ``a_2`` before ``a_10``."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", name)
    return [(1, 0.0, part) if index % 2 == 0 else (0, float(part), "") for index, part in enumerate(parts)]
