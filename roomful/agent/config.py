"""What an agent is told when it is started: where the queue is, who it is, where it works."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping


@dataclass(frozen=True)
class AgentConfig:
    """The agent's configuration file, a JSON object with these names; only its owner may read it."""

    #: Name of the cluster: part of every key in the queue.
    cluster: str
    #: The host's label, as the controller shows it.
    host: str
    #: Path of the Unix socket that leads to the queue.
    socket: str
    #: Folder that tasks run in; made if it does not exist. ``~`` is the home.
    workdir: str
    #: The agent's own folder, on local disk: lock, log, spool of outputs.
    directory: str
    username: str = ""
    password: str = field(default="", repr=False)
    #: Most tasks at a time; 0: the live setting ``slots``.
    slots: int = 0
    #: CPUs and memory to give to tasks; 0: what the host (or its cgroup) has.
    cpus: float = 0.0
    memory_bytes: int = 0
    #: What the live settings of these names are where the queue has none; 0: what ``tuning`` says.
    heartbeat_seconds: float = 0.0
    cut_off_grace_seconds: float = 0.0
    #: File whose lock must be ours while a task runs (see ``host_lock``); empty: none.
    host_lock: str = ""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> AgentConfig:
        """Check a configuration; raises ValueError with a sentence."""
        known = {item.name: item for item in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"agent configuration: unknown name {name!r}")
            whole, number = isinstance(known[name].default, int), isinstance(known[name].default, float)
            wanted: tuple[type, ...] = (int,) if whole else (int, float) if number else (str,)
            right = isinstance(value, wanted) and not isinstance(value, bool)
            if not right or (isinstance(value, (int, float)) and value < 0):
                raise ValueError(f"agent configuration: bad value of {name!r}")
        for name in ("cluster", "host", "socket", "workdir", "directory"):
            if not values.get(name):
                raise ValueError(f"agent configuration: {name!r} is missing")
        return cls(**values)

    @classmethod
    def read(cls, path: str) -> AgentConfig:
        """Read a configuration file; raises ValueError or OSError."""
        document = json.loads(Path(path).read_bytes())
        if not isinstance(document, dict):
            raise ValueError("agent configuration: not a JSON object")
        return cls.from_mapping(document)

    def document(self) -> dict[str, Any]:
        """Return what ``from_mapping`` takes."""
        return asdict(self)

    @property
    def home(self) -> Path:
        """The agent's own folder."""
        return Path(os.path.expanduser(self.directory))

    @property
    def working_directory(self) -> str:
        """The folder that tasks run in, absolute."""
        return os.path.abspath(os.path.expanduser(self.workdir))
