"""Where results come from: code, machines, times, as JSON beside them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from roomful.experiments.logs import logger
from roomful.experiments.plan import Plan
from roomful.remote.job import cpu_model

#: Asking git may take so long: a large file that changed is read to its end.
GIT_SECONDS = 20.0


@dataclass(frozen=True)
class Code:
    """The state of the git repository that an experiment file is in; all empty where it is in none."""

    repository: str = ""
    commit: str = ""
    #: Whether files differ from the commit; None where git could not say.
    dirty: bool | None = False


def code_of(folder: Path) -> Code:
    """Ask git about the repository of a folder."""
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
    except _NoAnswer as error:
        # No git, no repository, or none with a commit: nothing to wonder about.
        if not re.search("not a git repository|Needed a single revision|No such file", str(error)):
            logger.warning("the commit of %s is unknown: %s", folder, error)
        return Code()
    try:
        # Not to stand in the way of who works there.
        return Code(top, commit, bool(_git(folder, "--no-optional-locks", "status", "--porcelain")))
    except _NoAnswer as error:
        logger.warning("whether files in %s differ from their commit is unknown: %s", top, error)
        return Code(top, commit, None)


class _NoAnswer(Exception):
    """Say why git does not."""


def _git(folder: Path, *arguments: str) -> str:
    # In a hook, or wherever git runs us, its variables name a repository, which need not be the one of the folder.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _NoAnswer(f"git did not end within {GIT_SECONDS:g} s") from None
    except OSError as error:
        raise _NoAnswer(error.strerror or str(error)) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _NoAnswer(said[0] if said else f"git ended with {done.returncode}")
    return done.stdout.decode(errors="replace").strip()


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
