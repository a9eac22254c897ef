"""Where results come from: code, machines, times, as JSON beside them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from roomful.experiments.plan import Plan
from roomful.remote.job import cpu_model


@dataclass(frozen=True)
class Code:
    """The state of the git repository that an experiment file is in; all empty where it is in none."""

    repository: str = ""
    commit: str = ""
    dirty: bool = False


def code_of(folder: Path) -> Code:
    """Ask git about the repository of a folder."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if not top or not commit:
        return Code()
    return Code(top, commit, bool(_git(folder, "status", "--porcelain")))


def _git(folder: Path, *arguments: str) -> str:
    try:
        argv = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def controller() -> dict[str, Any]:
    """Describe this machine as the launchers describe theirs."""
    return {
        "hostname": platform.node(),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Provenance:
    """One run: where its results come from. Times are ISO 8601, with the zone."""

    run: str
    command_line: str
    seed: int
    began: str
    ended: str = ""
    controller: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Code] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "code": {file: asdict(code) for file, code in self.code.items()}}


def begin(plan: Plan, command_line: str) -> Provenance:
    """Describe a run that begins now; ``command_line`` holds no secret."""
    files = dict.fromkeys(experiment.registration.file for experiment in plan.experiments)
    folders = {folder: code_of(folder) for folder in {Path(file).parent for file in files}}
    code = {file: folders[Path(file).parent] for file in files}
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Provenance(name, command_line, plan.seed, now(), controller=controller(), code=code)


def now() -> str:
    """Return the time as ISO 8601 with the zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
