"""What every task of Roomful is made with: one decorator, one guard that turns errors into exit codes.

Invoke knows neither optional positional arguments nor ones that take several values, and it exits with 1 for a
mistyped command line. ``@step(extra="paths")`` and the small patches below add what the README promises.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import inspect
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke import Collection, Context, Exit, Program, Task
from invoke.env import Environment
from invoke.exceptions import ParseError
from invoke.parser import Argument
from invoke.parser.parser import ParseMachine, Parser
from invoke.terminals import pty_size

from roomful.errors import RoomfulError
from roomful.settings import Settings

from ._interrupt import by_exception
from ._streams import give_up_stdout

#: How a write to a stream fails.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

SHARED_HELP = {
    "hosts": "hosts: a list's name (n7), a path, node[01-20], user@host:port; several with commas",
    "exclude": "hosts to leave out, written as for --hosts",
    "json": "print one JSON document instead of tables",
    "max_failed": "how many hosts may fail with exit code 0: a number or a share (10%)",
    "accept_new_host_keys": "remember the keys of hosts that are not in known_hosts yet",
    "gateway": "reach the hosts through this one, as ssh -J does (setting gateway)",
}


@dataclass(frozen=True)
class Call:
    """The task that is running and what it was given, for messages that say how to call it again."""

    name: str
    given: dict[str, Any]
    extra: str | None

    def line(self, **changes: Any) -> str:
        """Write the call as a command line, with some arguments changed."""
        words = ["inv", self.name]
        extra = self.given.get(self.extra or "")
        words += extra if isinstance(extra, list) else [extra] if extra else []
        for key, value in {**self.given, **changes}.items():
            # As Invoke names them: a parameter that would be a keyword of Python ends in "_".
            flag = f"--{key.strip('_').replace('_', '-')}"
            if key == self.extra or value is False or value is None or value in ("", []):
                continue
            shown = f"{value:g}" if isinstance(value, float) else value
            words.append(flag if value is True else f"{flag}={shown}")
        # Invoke leaves what follows "--" to the task.
        rest = sys.argv[sys.argv.index("--") :] if "--" in sys.argv else []
        return " ".join(map(_pasteable, [*words, *rest]))


def _pasteable(word: str) -> str:
    """Quote a word for a shell; one with bytes that no terminal shows as bash, zsh and ksh read them."""
    if not re.search("[\udc80-\udcff]", word):
        return shlex.quote(word)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(plain)}'"


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Return the task that is running."""
    return _current.get()


class StepTask(Task):  # type: ignore[type-arg]
    """An Invoke task whose ``extra`` argument takes the words that are no flag, and if ``chained`` no task's name."""

    extra: str | None = None
    chained = True

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments, with the extra one marked for the parser."""
        arguments = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            argument.takes_extra = argument.name == self.extra  # type: ignore[attr-defined]
            argument.takes_names = not self.chained  # type: ignore[attr-defined]
        return arguments


#: Tasks whose command stands after "--".
_with_command: set[str] = set()


def step(
    *,
    extra: str | None = None,
    help: dict[str, str] | None = None,
    name: str | None = None,
    command: bool = False,
    chained: bool = True,
) -> Callable[[Callable[..., Any]], StepTask]:
    """Make an Invoke task of a function whose errors end in one line and an exit code.

    ``extra`` names the argument that takes words without a flag: one word if its default is text, any number of
    them if it is a list (write ``paths: list[str]`` without default). A task with ``hosts`` gets ``--gateway`` too,
    which ends up in its settings. ``command`` says that a command stands after "--", for people who leave that out.
    Without ``chained`` the words may be names of tasks too, which do not run then.
    """

    def decorate(function: Callable[..., Any]) -> StepTask:
        signature = inspect.signature(function)
        own = signature.parameters
        if "hosts" in own and "gateway" not in own:
            gateway = inspect.Parameter("gateway", inspect.Parameter.KEYWORD_ONLY, default="")
            signature = signature.replace(parameters=[*own.values(), gateway])
        parameters = signature.parameters
        shared = {key: text for key, text in SHARED_HELP.items() if key in parameters}
        several = extra is not None and parameters[extra].default is inspect.Parameter.empty
        task_name = (name or function.__name__).replace("_", "-")
        if command:
            _with_command.add(task_name)

        @functools.wraps(function)
        def guarded(c: Context, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(c, *args, **kwargs)
            defaults = {key: parameter.default for key, parameter in parameters.items()}
            given = {k: v for k, v in list(bound.arguments.items())[1:] if v != defaults[k]}
            full_name = getattr(task, "full_name", task_name)
            if "gateway" not in own:
                kwargs.pop("gateway", None)
            token = _current.set(Call(full_name, given, extra))
            try:
                with guard(full_name), by_exception():
                    return function(c, *args, **kwargs)
            finally:
                _current.reset(token)

        # Invoke makes the flags of this.
        guarded.__signature__ = signature  # type: ignore[attr-defined]
        task = StepTask(
            guarded,
            name=name,
            positional=[
                key
                for key, parameter in list(parameters.items())[1:]
                if parameter.default is inspect.Parameter.empty and key != extra
            ],
            iterable=[extra] if several and extra else [],
            help={**shared, **(help or {})},
            auto_shortflags=False,
        )
        task.extra, task.chained = extra, chained
        return task

    return decorate


@contextlib.contextmanager
def guard(name: str) -> Iterator[None]:
    """Turn errors into one line and an exit code: the only place where that happens."""
    try:
        with whole_output(f"inv {name}"):
            yield
    except RoomfulError as error:
        raise Exit(f"inv {name}: {error}", code=error.exit_code) from error
    except KeyboardInterrupt:
        raise Exit(f"inv {name}: interrupted", code=130) from None


@contextlib.contextmanager
def whole_output(name: str) -> Iterator[None]:
    """Write all that is printed before the block ends; raises Exit where stdout or a file cannot be used."""
    try:
        try:
            yield
        finally:
            # Python would write the rest when all is over, and could not tell any more that it is lost.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone (``| head``): end quietly, as other programs do.
        give_up_stdout()
        raise Exit(code=141) from None
    except OSError as error:
        if error.filename is not None:
            # A folder that is read-only, a limit of open files: what and where says enough.
            path = error.filename
            where = str(path) if isinstance(path, int) else os.fsdecode(path)
            told = RoomfulError(error.strerror or str(error), where=where)
            raise Exit(f"{name}: {told}", code=told.exit_code) from error
        # Whoever opens a file says which; what has no name is a stream.
        if error.errno not in _UNWRITABLE:
            raise
        give_up_stdout()
        raise Exit(f"{name}: cannot write the output: {error.strerror}", code=1) from error


def settings_of(c: Context) -> Settings:
    """Read the settings from Invoke's configuration, and ``--gateway`` of the task that is running.

    Raises SettingsError.
    """
    call = _current.get(None)
    root = getattr(c.config, "_project_prefix", None)
    values = dict(c.config["roomful"].items()) if "roomful" in c.config else {}
    if call and "gateway" in call.given:
        values["gateway"] = call.given["gateway"]
    return Settings.from_mapping(values, root=Path(root) if root else Path.cwd())


def name_tasks(collection: Collection) -> None:
    """Tell every task its full name (``lab.up``), for messages."""
    for full_name in collection.task_names:
        collection[full_name].full_name = full_name


_handle = ParseMachine.handle


def _handle_extra(machine: ParseMachine, token: str) -> None:
    """Give a word that Invoke would call unknown to the task's extra argument."""
    context: Any = machine.context  # None before the first task, whatever its annotation says
    arguments = context.args.values() if context is not None else ()
    extra = next((argument for argument in arguments if getattr(argument, "takes_extra", False)), None)
    if (
        extra is None
        or machine.current_state == "unknown"
        or token in context.flags
        or token in context.inverse_flags
        or machine.waiting_for_flag_value
        or context.missing_positional_args
        or (token in machine.contexts and not getattr(extra, "takes_names", False))
        or (token.startswith("-") and token != "-")
        or (extra.kind is not list and extra.raw_value is not None)
    ):
        _handle(machine, token)
    else:
        extra.set_value(token)


def fitted(doc: str, columns: int) -> str:
    """Break the paragraphs of a docstring anew so that they fit a terminal; what is indented stays as it is."""
    paragraphs = []
    for paragraph in inspect.cleandoc(doc).split("\n\n"):
        indented = any(line.startswith(" ") for line in paragraph.splitlines())
        broken = textwrap.fill(paragraph, max(columns, 20), break_long_words=False, break_on_hyphens=False)
        paragraphs.append(paragraph if indented else broken)
    return "\n\n".join(paragraphs)


def _misread(parser: Parser, error: ParseError) -> str:
    """Say what of a command line means nothing, and what was perhaps meant."""
    found = re.fullmatch(r"No idea what '(.*)' is!", str(error), re.DOTALL)
    context: Any = error.context
    task = context.name if context is not None and context.name else ""
    see = f"see inv --help {task}" if task else "see inv --list"
    if not found:
        return f"{error}; {see}"
    word = found[1]
    flag = word.startswith("-")
    if flag and not task:
        return f"inv itself has no flag {word!r}; flags of a task come after its name; {see}"
    if not flag and task in _with_command:
        return f"there is no task {word!r}; a command stands after --: inv {task} ... -- {shlex.quote(word)}; {see}"
    near = difflib.get_close_matches(word, context.flags if flag else parser.contexts, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    what = f"inv {task} has no flag" if flag else "there is no task"
    return f"{what} {word!r}{meant} {see}" if meant else f"{what} {word!r}; {see}"


_parse_argv = Parser.parse_argv


def _parse_argv_with_code_2(parser: Parser, argv: list[str]) -> Any:
    try:
        return _parse_argv(parser, argv)
    except ParseError as error:
        raise Exit(f"inv: {_misread(parser, error)}", code=2) from error
    except ValueError as error:
        # Invoke hands int() and float() what was written: "invalid literal for int() with base 10: 'abc'".
        value = str(error).rpartition(": ")[2]
        raise Exit(f"inv: {value} is not a number; see inv --help TASK", code=2) from error


_path_set = Environment._path_set


def _path_set_as_written(environment: Environment, key_path: Sequence[str], value: str) -> None:
    """Leave what the environment says for `Settings` to judge.

    Invoke would make what was there before of it, by rules of its own: "false" is true, "x" for a number a traceback.
    """
    if key_path[0] == "roomful":
        environment.data.setdefault("roomful", {})[key_path[-1]] = value
    else:
        _path_set(environment, key_path, value)


_parse_cleanup = Program.parse_cleanup


def _parse_cleanup_as_promised(program: Program) -> None:
    """Do what needs no task, as --list and --help TASK, with the exit codes that tasks have."""
    asked = program.args.help.value
    if asked in program.collection.task_names:
        task = program.collection[asked]
        task.__doc__ = fitted(task.__doc__ or "", pty_size()[0] - len(program.leading_indent) - 1)
    try:
        with whole_output("inv"):
            _parse_cleanup(program)
    except ParseError as error:
        found = re.fullmatch(r"No idea what '(.*)' is!", str(error), re.DOTALL)
        if not found:
            raise
        near = difflib.get_close_matches(found[1], program.parser.contexts, n=1)
        meant = f"did you mean inv --help {near[0]}? " if near else ""
        raise Exit(f"inv: there is no task {found[1]!r}; {meant}see inv --list", code=2) from error


# Invoke offers no hook for these; the patches change nothing for tasks that do not ask for it, and tests hold them.
ParseMachine.handle = _handle_extra  # type: ignore[method-assign, assignment]
Parser.parse_argv = _parse_argv_with_code_2  # type: ignore[method-assign, assignment]
Environment._path_set = _path_set_as_written  # type: ignore[method-assign, assignment]
Program.parse_cleanup = _parse_cleanup_as_promised  # type: ignore[method-assign, assignment]
