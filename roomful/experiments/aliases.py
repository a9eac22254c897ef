"""The module ``distexprunner``, while our runner loads and runs experiments: its files run unmodified."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from roomful import experiments
from roomful.experiments.servers import Server

#: distexprunner's own modules, from which its names can be imported too.
SUBMODULES = ("enums", "outputs", "parameter_grid", "registry", "server", "server_list", "stdin_controller", "utils")


class DaemonServer(Server):
    """A server as distexprunner writes it: ``port`` is the old daemon's and is ignored; SSH has its own."""

    def __init__(self, id: Any, ip: Any, port: Any = 20000, **attributes: Any) -> None:
        del port
        super().__init__(id, ip, **attributes)


def distexprunner() -> dict[str, types.ModuleType]:
    """Return the modules that stand in for distexprunner's."""
    names = {name: getattr(experiments, name) for name in experiments.__all__} | {"Server": DaemonServer}
    modules = {"distexprunner": module_of("distexprunner", names)}
    for submodule in SUBMODULES:
        module = module_of(f"distexprunner.{submodule}", names)
        modules[module.__name__] = module
        setattr(modules["distexprunner"], submodule, module)
    return modules


def module_of(name: str, names: Mapping[str, Any]) -> types.ModuleType:
    """Make a module that holds these names."""
    module = types.ModuleType(name, "Stands in for a module of distexprunner.")
    module.__dict__.update(names)
    module.__dict__["__all__"] = list(names)
    module.__path__ = []
    return module


@contextlib.contextmanager
def installed(modules: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """Let ``import`` find these modules, before any that are installed."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
