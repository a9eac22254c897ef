"""The files that a benchmark definition needs, and where they go on a worker: at the same places to each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from roomful.benchexec.definition import parsed
from roomful.benchexec.patterns import Patterns, substituted
from roomful.errors import InputError

#: Elements that name files for all tasks below them.
_COMMON = ("requiredfiles", "propertyfile")


@dataclass(frozen=True)
class Tree:
    """Files below one folder; ``files`` are their absolute paths here, folders stand for all in them."""

    root: Path
    definition: Path
    files: tuple[Path, ...]

    @property
    def definition_path(self) -> str:
        """The definition's path relative to the root."""
        return str(self.definition.relative_to(self.root))


def read_tree(path: Path) -> Tree:
    """Find every file that a definition names: tasks, their input, required and property files, lists of tasks.

    Raises InputError for what cannot be at the same place on a worker: paths that do not start at the definition.
    """
    root = parsed(path)
    _refuse_absolute(root, path)
    found = set(_named(root, path))
    definition = Path(os.path.abspath(path))
    files = sorted({definition, *(Path(os.path.abspath(name)) for name in found)})
    top = Path(os.path.commonpath([definition.parent, *(file.parent for file in files)]))
    if top == top.parent:
        far = next(file for file in files if file.parts[1] != definition.parts[1])
        why = f"{far} and the definition are in no common folder but {top}"
        raise InputError("cannot be shipped", where=str(path), why=why, fix="put the tasks beside or above it")
    for file in files:
        if not _is_unicode(str(file.relative_to(top))):
            why = "its name is not UTF-8, and BenchExec could not write it into results"
            raise InputError("cannot be measured", where=ascii(str(file)), why=why, fix="rename it")
    return Tree(top, definition, tuple(files))


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _named(root: ElementTree.Element, path: Path) -> Iterator[str]:
    shared = [element for tag in _COMMON for element in root.findall(tag)]
    for run_definition in root.findall("rundefinition"):
        patterns = Patterns(path, run_definition.get("name", ""))
        own = [element for tag in _COMMON for element in run_definition.findall(tag)]
        for tasks in [*root.findall("tasks"), *run_definition.findall("tasks")]:
            yield from patterns.lists(tasks)
            common = [*shared, *own, *(element for tag in _COMMON for element in tasks.findall(tag))]
            for element in common:
                yield from patterns.matching(element.text)
            for task in patterns.included(tasks):
                yield task
                for element in common:
                    if "${" in (element.text or ""):
                        yield from patterns.matching(element.text, task=task)
                for element in tasks.findall("append"):
                    yield from patterns.matching(element.text, Path(task).parent, task)
                if task.endswith(".yml"):
                    yield from _of_task_definition(Path(task), patterns)


def _of_task_definition(path: Path, patterns: Patterns) -> Iterator[str]:
    """Yield the files that a task definition in YAML names; raises InputError where it cannot be read."""
    import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError("cannot read a task", where=str(path), why=error.strerror or "") from None
    except yaml.YAMLError as error:
        raise InputError("is no YAML", where=str(path), why=str(error).splitlines()[0]) from None
    if not isinstance(document, dict):
        raise InputError("is no task definition", where=str(path), fix="see BenchExec's task-definition format")
    for key in ("input_files", "required_files"):
        for pattern in _texts(document.get(key)):
            yield from _below(pattern, path, patterns, key)
    for entry in document.get("properties") or ():
        if isinstance(entry, dict) and entry.get("property_file"):
            yield from patterns.matching(str(entry["property_file"]), path.parent)


def _below(pattern: str, path: Path, patterns: Patterns, key: str) -> list[str]:
    if os.path.isabs(os.path.expandvars(os.path.expanduser(pattern))):
        raise _no_such_place(pattern, str(path))
    found = patterns.matching(pattern, path.parent)
    if not found:
        raise InputError(f"{key}: no file matches {pattern!r}", where=str(path))
    return found


def _texts(value: Any) -> Iterable[str]:
    return [] if value is None else [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _refuse_absolute(root: ElementTree.Element, path: Path) -> None:
    tags = ("include", "includesfile", "exclude", "excludesfile", "append", *_COMMON)
    # Those that are absolute here are so there too, with that machine's own folders.
    places = dict.fromkeys(("benchmark_path_abs", "inputfile_path_abs", "taskdef_path_abs"), ".")
    for element in root.iter():
        text = (element.text or "").strip()
        if element.tag in tags and os.path.isabs(os.path.expandvars(os.path.expanduser(substituted(text, places)))):
            raise _no_such_place(text, str(path))


def _no_such_place(pattern: str, where: str) -> InputError:
    why = "a worker has its own folders"
    return InputError(f"{pattern!r} is an absolute path", where=where, why=why, fix="write it relative to this file")
