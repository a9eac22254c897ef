"""What is asked of a benchmark run, read and checked before anything is done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful.benchexec.definition import read_definition
from roomful.benchexec.plan import Plan, make_plan
from roomful.benchexec.stage import Load, check_file
from roomful.benchexec.table import find_program
from roomful.benchexec.tree import read_tree
from roomful.errors import InputError


@dataclass(frozen=True)
class RunOptions:
    """How jobs are run; both lists are words of a command line, in which ``{workdir}`` is the worker's folder."""

    #: For runexec's trial on each worker, and for BenchExec: how a run is kept apart from the machine.
    runexec: tuple[str, ...] = ()
    #: For BenchExec alone.
    benchexec: tuple[str, ...] = ()
    mixed_hardware: bool = False


@dataclass(frozen=True)
class Request:
    """A run as its user describes it; paths and option lists are as they were typed, empty ones are not given."""

    definition: str
    tool: str = ""
    start_script: str = ""
    #: Of the run; empty: the definition's.
    name: str = ""
    split: str = "taskset"
    #: Go on with a run that is there.
    resume: bool = False
    options: str = ""
    runexec_options: str = ""
    mixed_hardware: bool = False


@dataclass(frozen=True)
class Order:
    """A request that can be met here; ``program`` is table-generator."""

    name: str
    resume: bool
    plan: Plan
    load: Load
    options: RunOptions
    program: str

    def identity(self) -> dict[str, object]:
        """Return what must be the same for results to belong to one run.

        Raises RoomfulError for a file that cannot be read.
        """
        return {
            "definition": self.plan.definition.name,
            **self.load.digests(),
            "split": self.plan.split,
            "jobs": [job.id for job in self.plan.jobs],
            "options": list(self.options.benchexec),
            "runexec-options": list(self.options.runexec),
        }


def read_request(request: Request) -> Order:
    """Read what a request names; raises InputError for what cannot be run, MissingProgram without table-generator."""
    definition = Path(request.definition)
    plan = make_plan(read_definition(definition), request.split)
    tool = check_file(request.tool, "--tool")
    load = Load(read_tree(definition), tool, check_file(request.start_script, "--start-script"))
    check_script(plan, load.script)
    runexec = tuple(words_of(request.runexec_options, "--runexec-options"))
    options = RunOptions(runexec, tuple(words_of(request.options, "--options")), request.mixed_hardware)
    check_options((*options.runexec, *options.benchexec))
    return Order(request.name or plan.definition.name, request.resume, plan, load, options, find_program())


def words_of(options: str, flag: str) -> list[str]:
    """Split a flag's value as a shell does; raises InputError."""
    try:
        return shlex.split(options)
    except ValueError as error:
        raise InputError(f"bad {flag} {options!r}", why=str(error)) from None


def check_script(plan: Plan, script: Path | None) -> None:
    """Refuse a start script that would get several task sets; raises InputError."""
    if script is not None and plan.split != "taskset":
        why = "a script is called with one task set and runs all its run definitions"
        raise InputError(f"--start-script does not go with --split={plan.split}", why=why, fix="leave --split out")


def check_options(words: Sequence[str]) -> None:
    """Refuse options of BenchExec's that are the run's own; raises InputError."""
    own = ("-o", "--outputpath", "-n", "--name", "-t", "--tasks", "-r", "--rundefinition")
    for word in words:
        name = word.partition("=")[0]
        # BenchExec takes an option's first letters for it.
        cut = len(name) > 2 and name.startswith("--") and any(option.startswith(name) for option in own)
        if cut or (word[:2] in own and not word.startswith("--")):
            fix = "leave it out; a run's name is --name of bench.run"
            raise InputError(f"{word} is for the run to say", where="--options", fix=fix)
