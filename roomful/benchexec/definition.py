"""A benchmark definition: BenchExec's XML file with its run definitions and task sets.

BenchExec leaves names out where it can, and then neither ``-t`` nor the name of a result file says which task set is
meant. Here every set has a name of its own, or the file is refused with what to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from roomful.benchexec.patterns import Patterns
from roomful.errors import InputError

#: A longer name would not fit into the name of a result file, with the other parts of it.
LONGEST_NAME = 80


@dataclass(frozen=True)
class TaskSet:
    """A ``<tasks>`` element; ``tasks`` counts what it includes, before BenchExec filters by property."""

    name: str
    tasks: int


@dataclass(frozen=True)
class RunDefinition:
    """A ``<rundefinition>``, with the global task sets and its own; its name may be empty where it is alone."""

    name: str
    task_sets: tuple[TaskSet, ...]


@dataclass(frozen=True)
class Definition:
    """What a definition file says."""

    path: Path
    tool: str
    run_definitions: tuple[RunDefinition, ...]

    @property
    def name(self) -> str:
        """What BenchExec calls it: the file's name without ``.xml``."""
        return self.path.name.removesuffix(".xml")


def read_definition(path: Path) -> Definition:
    """Read a definition and look for its tasks' files beside it.

    Raises InputError for what BenchExec refuses, for what it would silently skip, and for names that collide.
    """
    root = parsed(path)
    tool = root.get("tool", "")
    if not tool:
        raise InputError("names no tool", where=str(path), fix='write <benchmark tool="...">')
    elements = root.findall("rundefinition")
    if not elements:
        raise InputError("has no run definition: nothing would run", where=str(path), fix="add <rundefinition>")
    _check_run_definitions([element.get("name", "") for element in elements], path)
    shared = root.findall("tasks")
    found = []
    for element in elements:
        name = element.get("name", "")
        sets = _task_sets([*shared, *element.findall("tasks")], name, path)
        if not sets:
            raise InputError("has no tasks", where=_place(path, name), fix='add <tasks name="..."> to it')
        found.append(RunDefinition(name, sets))
    _check_result_names(found, path)
    return Definition(path, tool, tuple(found))


def parsed(path: Path) -> ElementTree.Element:
    """Read the file; raises InputError for what is no benchmark definition."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        raise InputError("cannot read the definition", where=str(path), why=error.strerror or str(error)) from None
    except ElementTree.ParseError as error:
        line, column = error.position
        why = str(error).partition(":")[0]
        raise InputError("is no XML", where=f"{path}:{line}:{column + 1}", why=why) from None
    except (LookupError, ValueError) as error:
        # An encoding that is unknown, or that the parser does not take.
        raise InputError("is no XML", where=str(path), why=str(error), fix="write it in UTF-8") from None
    if root.tag != "benchmark":
        raise InputError(f"is no benchmark definition: its root is <{root.tag}>", where=str(path))
    if root.find(".//sourcefiles") is not None:
        raise InputError("is of an old format", where=str(path), fix="rename <sourcefiles> to <tasks>")
    return root


def _check_run_definitions(names: list[str], path: Path) -> None:
    for name in filter(None, names):
        _check_name(name, f"{path}: run definition {name!r}")
    if len(names) > 1 and "" in names:
        number = names.index("") + 1
        what = f"run definition {number} of {len(names)} has no name"
        raise InputError(what, where=str(path), fix='write <rundefinition name="...">')
    for name, count in Counter(names).items():
        if count > 1:
            what = f"{count} run definitions are called {name!r}"
            raise InputError(what, where=str(path), fix="give each a name of its own")


def _task_sets(elements: Iterable[ElementTree.Element], run_definition: str, path: Path) -> tuple[TaskSet, ...]:
    where = _place(path, run_definition)
    found: dict[str, TaskSet] = {}
    for number, element in enumerate(elements, 1):
        name = element.get("name", "")
        if not name:
            what = f"task set {number} (global ones come first) has no name"
            raise InputError(what, where=where, fix='write <tasks name="...">')
        _check_name(name, f"{where}: task set {name!r}")
        if name in found:
            what = f"two task sets are called {name!r}"
            raise InputError(what, where=where, fix="give each a name of its own; global ones count too")
        tasks = _count(element, path, run_definition)
        if not tasks:
            patterns = ", ".join(repr(one.text) for one in element if one.tag in ("include", "includesfile"))
            why = f"no file matches {patterns}" if patterns else "it includes nothing"
            raise InputError(f"task set {name!r} is empty", where=where, why=why)
        found[name] = TaskSet(name, tasks)
    return tuple(found.values())


def _check_name(name: str, where: str) -> None:
    """Refuse a name that cannot be a part of a result file's name."""
    if "/" in name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        why = f"names become parts of files' names: no slash, no control character, at most {LONGEST_NAME} bytes"
        raise InputError("bad name", where=where, why=why, fix="change the name attribute")


def _check_result_names(run_definitions: Iterable[RunDefinition], path: Path) -> None:
    """Refuse names whose results would be one file: ``a`` with ``b.c``, and ``a.b`` with ``c``."""
    owners: dict[str, tuple[str, str]] = {}
    for definition in run_definitions:
        for tasks in definition.task_sets:
            result = result_name(definition.name, tasks.name)
            if result in owners:
                one, other = (f"{r!r} with {t!r}" for r, t in (owners[result], (definition.name, tasks.name)))
                what = f"the results of {one} and of {other} would have the same name, {result}"
                raise InputError(what, where=str(path), fix="change one of the names")
            owners[result] = (definition.name, tasks.name)


def result_name(run_definition: str, task_set: str) -> str:
    """Return what BenchExec puts between ``.results.`` and ``.xml`` with ``--results-per-taskset``."""
    return ".".join(filter(None, (run_definition, task_set)))


def _count(element: ElementTree.Element, path: Path, run_definition: str) -> int:
    """Count the tasks of a set as BenchExec finds them: included, less excluded, plus those without a file."""
    return len(Patterns(path, run_definition).included(element)) + len(element.findall("withoutfile"))


def _place(path: Path, run_definition: str) -> str:
    return f"{path}: run definition {run_definition!r}" if run_definition else str(path)
