"""The bundled redis-py without what an agent never uses: asyncio, TLS, clusters and sentinels, half of its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import sys
import types
from typing import Any

#: Modules that redis-py imports at its start, for things that are no use over a Unix socket.
LEFT_OUT = (
    "asyncio",
    "async_timeout",
    "cryptography",
    "importlib.metadata",
    "redis.asyncio",
    "redis.cluster",
    "redis.commands.cluster",
    "redis.commands.sentinel",
    "redis.ocsp",
    "redis.sentinel",
    "ssl",
    "uuid",
)


class _Absent(types.ModuleType):
    """Stands in for a module; each of its names is an exception class of its own, which also passes for a type."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (Exception,), {})
        setattr(self, name, value)
        return value


def load_redis() -> None:
    """Import redis-py with stand-ins for what is left out, unless it is there already; they are gone afterwards."""
    if "redis" in sys.modules:
        return
    stand_ins = {name: _Absent(name) for name in LEFT_OUT if name not in sys.modules}
    sys.modules.update(stand_ins)
    if "importlib.metadata" in stand_ins:
        stand_ins["importlib.metadata"].version = lambda _: "0"  # type: ignore[attr-defined]  # a stand-in
    try:
        importlib.import_module("redis")
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def give_back_memory() -> None:
    """Give the system back what importing (the zipapp's modules are compiled each time) has left unused."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
