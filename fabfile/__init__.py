"""The tasks of Roomful as an Invoke collection.

``from fabfile import ns`` in the project's folder, ``from roomful.fabfile import ns`` where it is installed.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

# Invoke turns bytecode off for what it loads: every call would compile all of this anew, for 50 to 100 ms.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from ._interrupt import end_quietly  # noqa: E402

# Loading what follows takes longer than an impatient user waits.
end_quietly()

# Only now, so that there is bytecode of these too.
from invoke import Collection  # noqa: E402

from roomful.settings import defaults  # noqa: E402

from . import _streams  # noqa: E402
from ._step import StepTask, name_tasks  # noqa: E402

_streams.prepare()

#: Modules whose tasks are called by a dotted name (``lab.up``); the tasks of all others stand at the top.
GROUPS = {"lab": "lab", "dev": "dev", "benchexec": "bench", "experimenting": "experiments"}


def _collect() -> Collection:
    collection = Collection()
    for module in sorted(item.name for item in pkgutil.iter_modules(__path__) if not item.name.startswith("_")):
        loaded = importlib.import_module(f".{module}", __name__)
        target = Collection(GROUPS[module]) if module in GROUPS else collection
        for value in vars(loaded).values():
            if isinstance(value, StepTask) and value.body.__module__ == loaded.__name__:
                target.add_task(value)
        if target is not collection and target.tasks:
            collection.add_collection(target)
    collection.configure({"roomful": defaults()})
    name_tasks(collection)
    return collection


ns = _collect()
