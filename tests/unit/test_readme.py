"""The README's tables are the code's: tasks, settings, and every flag that an example uses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fabfile import ns
from roomful.settings import defaults

README = (Path(__file__).parents[2] / "README.md").read_text()
CONTEXTS = {context.name: context for context in ns.to_contexts()}


def table_of(heading: str) -> set[str]:
    """Return the first cells (in backquotes) of the first table under a heading."""
    section = re.split(r"^#+ ", README.split(f"# {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `(?:inv )?([^` ]+)[^`]*` \|", section, flags=re.MULTILINE))


def commands() -> list[str]:
    """Return every line of the shell examples that calls a task."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        text = re.sub(r"^\s*(\$ )?(\./bootstrap )?", "", line)
        if text.startswith("inv ") and not text.startswith(("inv --", "inv |")):
            found.append(text)
    return found


def test_the_table_of_tasks_is_complete() -> None:
    assert table_of("Tasks") == {name for name in CONTEXTS if name}


def test_the_table_of_settings_is_complete() -> None:
    assert table_of("Settings") == set(defaults())


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_example_uses_tasks_and_flags_that_exist(line: str) -> None:
    words = shlex.split(re.split(r"\s(?:\||>|&&|\|\||;|#)", line)[0], comments=True)[1:]
    context = None
    for word in words:
        if word == "--":
            break
        if word in CONTEXTS:
            context = CONTEXTS[word]
        elif word.startswith("--"):
            assert context is not None, line
            flag = word.split("=")[0]
            assert flag in context.flags or flag in context.inverse_flags, f"{flag} in: {line}"
    assert context is not None, line


def helped() -> list[str]:
    """Return every example of every task's help."""
    return [
        line.strip()
        for name in filter(None, CONTEXTS)
        for line in (ns[name].__doc__ or "").splitlines()
        if line.strip().startswith("inv ")
    ]


@pytest.mark.parametrize("line", sorted({*commands(), *helped()}))
def test_no_task_in_an_example_relies_on_the_hosts_of_another(line: str) -> None:
    words = shlex.split(re.split(r"\s(?:\||>|&&|\|\||;)", line)[0], comments=True)[1:]
    words = words[: words.index("--")] if "--" in words else words
    parts: list[list[str]] = []
    for word in words:
        # A word behind a flag or a task may have a task's name and be none: dev.bench dispatch.
        if word in CONTEXTS and not (parts and parts[-1][-1] in ("--output", "dev.bench")):
            parts.append([])
        if parts:
            parts[-1].append(word)
    given = [part for part in parts if any(word.split("=")[0] == "--hosts" for word in part)]
    missing = [part[0] for part in parts if part not in given and "--hosts" in CONTEXTS[part[0]].flags]
    # discover makes the list that the next task is given.
    assert not given or not missing, f"--hosts is for the task before it only: {missing} has none"


@pytest.mark.parametrize("name", sorted(filter(None, CONTEXTS)))
def test_every_task_says_what_it_does_with_an_example_and_help_for_every_argument(name: str) -> None:
    task = ns[name]
    text = task.__doc__ or ""
    assert re.match(r"[A-Z][a-z]+: [a-z].*\.$", text.split("\n\n")[0].replace("\n", " ")), text
    assert re.search(rf"^\s*(\./bootstrap )?inv {re.escape(name)}\b", text, flags=re.MULTILINE), f"no example: {name}"
    undocumented = [argument.name for argument in CONTEXTS[name].args.values() if not argument.help]
    assert not undocumented
