"""Run a program of ``roomful.workdir`` on a host: modules and request go there as text, an answer comes back."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from roomful.outcome import HostFailure
from roomful.workdir.files import ANSWER

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

PACKAGE = "roomful.workdir"
#: Exit code of the gate below.
_TOO_OLD = 86

#: Comes before anything that an old Python could not even read, and makes the modules importable there.
_LOADER = """\
import sys
if sys.version_info < (3, 8):
    sys.stderr.write("python3 there is %d.%d, 3.8 or newer is needed" % sys.version_info[:2])
    sys.exit({too_old})
import types
for name, source in {modules!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main()
"""


@functools.cache
def program(name: str) -> str:
    """Return the text of a program: the module ``roomful.workdir.NAME``, after those that it needs.

    Each module's imports stand at its top and go one way, so the order of first import is the order to load them in.
    """
    importlib.import_module(f"{PACKAGE}.{name}")
    modules: dict[str, str] = {}
    _add(f"{PACKAGE}.{name}", modules)
    stubs = [(package, "") for package in ("roomful", PACKAGE)]
    return _LOADER.format(too_old=_TOO_OLD, modules=[*stubs, *modules.items()])


def _add(name: str, modules: dict[str, str]) -> None:
    source = inspect.getsource(importlib.import_module(name))
    for line in source.splitlines():
        words = line.split()
        if words[:1] == ["from"] and words[1].startswith(f"{PACKAGE}.") and words[1] not in modules:
            _add(words[1], modules)
    modules[name] = source


def run(
    connection: HostConnection, name: str, request: Mapping[str, Any], timeout: float | None = None
) -> dict[str, Any]:
    """Run a program on a host and return its answer.

    Raises HostFailure with the reason that it gives, or ``no-python``.
    """
    stdin = zlib.compress(json.dumps(request).encode(), 1)
    done = connection.python(program(name), stdin=stdin, timeout=timeout, check=False)
    if done.exit_code == _TOO_OLD:
        raise HostFailure("no-python", done.stderr.decode(errors="replace").strip())
    return answer_of(done.exit_code, done.stdout, done.stderr)


def answer_of(exit_code: int, stdout: bytes, stderr: bytes) -> dict[str, Any]:
    """Read what a program printed; raises HostFailure when it failed, or printed something else."""
    _, found, line = stdout.rpartition(ANSWER.encode())
    try:
        answer = json.loads(line) if found else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        lines = (stderr or stdout).decode(errors="replace").strip().splitlines()
        detail = lines[-1].strip() if lines else "no answer from python3"
        raise HostFailure(f"exit {exit_code}" if exit_code else "error", detail)
    if "failed" in answer:
        raise HostFailure(str(answer["failed"]), str(answer.get("detail", "")))
    return answer
