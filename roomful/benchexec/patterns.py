"""The file patterns of a benchmark definition, expanded as BenchExec expands them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from roomful.errors import InputError


class Patterns:
    """Expands what stands in a definition, for one of its run definitions."""

    def __init__(self, path: Path, run_definition: str) -> None:
        self.path = path
        self._variables = {
            "benchmark_name": path.name.removesuffix(".xml"),
            "benchmark_path": str(path.parent),
            "benchmark_path_abs": str(path.parent.absolute()),
            "benchmark_file": path.name,
            "benchmark_file_abs": str(path.absolute()),
            "rundefinition_name": run_definition,
            "test_name": run_definition,
        }

    def matching(self, text: str | None, base: Path | None = None, task: str = "") -> list[str]:
        """Return the paths that match a pattern, which starts at ``base`` (default: the definition's folder).

        ``task`` is the file that variables of a task's stand for.
        """
        pattern = substituted(text or "", {**self._variables, **_of_task(task)})
        folder = self.path.parent if base is None else base
        return glob.glob(os.path.normpath(os.path.join(folder, os.path.expandvars(os.path.expanduser(pattern)))))

    def lists(self, tasks: ElementTree.Element) -> list[str]:
        """Return the files of a ``<tasks>`` that name others."""
        elements = [*tasks.findall("includesfile"), *tasks.findall("excludesfile")]
        return [name for element in elements for name in self.matching(element.text)]

    def included(self, tasks: ElementTree.Element) -> set[str]:
        """Return the files that a ``<tasks>`` includes, less those that it excludes.

        Raises InputError for a list that cannot be read.
        """
        try:
            files = {name for one in tasks.findall("include") for name in self.matching(one.text)}
            files |= set(self._listed(tasks, "includesfile"))
            files -= {name for one in tasks.findall("exclude") for name in self.matching(one.text)}
            return files - set(self._listed(tasks, "excludesfile"))
        except OSError as error:
            raise InputError(
                "cannot read a list of tasks", where=str(error.filename), why=error.strerror or ""
            ) from None

    def _listed(self, tasks: ElementTree.Element, tag: str) -> Iterator[str]:
        for one in tasks.findall(tag):
            for name in self.matching(one.text):
                for line in Path(name).read_text(errors="surrogateescape").splitlines():
                    if line.strip() and not line.strip().startswith(("#", "//")):
                        yield from self.matching(line.strip(), Path(name).parent)


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """Put variables' values into a text; what is no variable stays."""
    return re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], match[0]), text)


def _of_task(task: str) -> dict[str, str]:
    if not task:
        return {}
    folder = os.path.dirname(task)
    values = {"name": os.path.basename(task), "path": folder or ".", "path_abs": os.path.abspath(folder)}
    return {f"{prefix}_{key}": value for prefix in ("inputfile", "taskdef") for key, value in values.items()}
