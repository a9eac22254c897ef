"""From paths to experiments: finds the files, runs them, and keeps what they register."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roomful.errors import InputError, RoomfulError
from roomful.experiments import aliases, version1
from roomful.experiments.logs import logger
from roomful.experiments.plan import MANY
from roomful.experiments.registry import Registration, Registry
from roomful.experiments.servers import loading_settings
from roomful.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """What the files hold, in order; ``broken``: those that could not be loaded, with one line each on why."""

    registrations: tuple[Registration, ...]
    broken: tuple[tuple[Path, str], ...] = ()


def find_files(paths: Sequence[str]) -> list[Path]:
    """Return the Python files of these paths, folders searched recursively, in the order of the arguments.

    Raises InputError for a path that does not exist or holds none.
    """
    if not paths:
        raise InputError(
            "no experiments given", fix="name files or folders: inv experiments.run resources/experiments"
        )
    files: dict[Path, None] = {}
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.py") if not _hidden(file.relative_to(path)))
            if not found:
                raise InputError("no Python files in it", where=name)
        elif path.is_file():
            found = [path]
        else:
            raise InputError("no such file or folder", where=name)
        for file in found:
            files.setdefault(file.resolve())
    return list(files)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


@contextlib.contextmanager
def environment(compatibility_mode: bool = False) -> Iterator[None]:
    """Let experiment files import ``distexprunner``; in compatibility mode ``experiment`` as well."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(aliases.installed(aliases.distexprunner()))
        if compatibility_mode:
            stack.enter_context(aliases.installed(version1.modules()))
        path, known = list(sys.path), set(sys.modules)
        try:
            yield
        finally:
            folders = tuple(f"{folder}/" for folder in set(sys.path) - set(path))
            sys.path[:] = path
            for name in set(sys.modules) - known:
                if name.startswith(PREFIX) or _file_of(sys.modules[name]).startswith(folders):
                    del sys.modules[name]


#: Experiment files become modules of this name and a number.
PREFIX = "roomful_experiment_file_"


class Loader:
    """Load files into one registry; use it inside `environment`."""

    def __init__(self, settings: Settings, compatibility_mode: bool = False) -> None:
        self._settings = settings
        self._compatibility_mode = compatibility_mode
        self._registry = Registry()
        self._number = 0
        #: What files import from their own folder, by folder: two folders may each have a config.py.
        self._siblings: dict[str, dict[str, types.ModuleType]] = {}

    def load(self, files: Sequence[Path], keep_going: bool = False) -> Loaded:
        """Run every file; with ``keep_going`` the others go on after one that fails.

        Raises InputError for a file that fails; its traceback is in the log.
        """
        broken: list[tuple[Path, str]] = []
        token = loading_settings.set(self._settings)
        try:
            with self._registry.collecting():
                for file in files:
                    try:
                        self._load(file)
                    except InputError as error:
                        if not keep_going:
                            raise
                        broken.append((file, str(error)))
        finally:
            loading_settings.reset(token)
        registrations = self._registry.registrations
        if self._compatibility_mode:
            registrations = sorted(registrations, key=lambda registration: version1.natural_key(registration.name))
        return Loaded(tuple(registrations), tuple(broken))

    def _load(self, file: Path) -> None:
        self._number += 1
        name = f"{PREFIX}{self._number}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise InputError("is no Python file", where=str(file), fix="experiment files' names end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        before = len(self._registry.registrations)
        with self._folder(str(file.parent)):
            try:
                spec.loader.exec_module(module)
                if self._compatibility_mode:
                    version1.register_module(module, file.stem)
                for registration in self._registry.registrations[before:]:
                    # Whatever computes parameters is called, as long as that does not take long.
                    registration.count(MANY + 1)
            except (Exception, SystemExit) as error:
                del self._registry.registrations[before:]
                logger.error("%s cannot be loaded\n%s", file, _traceback(error, file))
                if isinstance(error, RoomfulError):
                    raise InputError(error.what, where=_line(error, file), why=error.why, fix=error.fix) from error
                why = f"{type(error).__name__}: {error}"
                raise InputError("an error in the experiment file", where=_line(error, file), why=why) from error

    @contextlib.contextmanager
    def _folder(self, folder: str) -> Iterator[None]:
        """Let a file import its neighbours, whatever else is loaded by their names."""
        neighbours = {path.stem for path in Path(folder).glob("*.py")} - sys.stdlib_module_names
        hidden = {name: sys.modules.pop(name) for name in neighbours if name in sys.modules}
        sys.modules.update(self._siblings.get(folder, {}))
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            # What experiments import while they run is found as well.
            sys.path.append(folder)
            self._siblings[folder] = {
                name: module
                for name, module in sys.modules.items()
                if not name.startswith(PREFIX) and _file_of(module).startswith(f"{folder}/")
            }
            foreign = {name: module for name, module in hidden.items() if not self._is_sibling(module)}
            sys.modules.update(foreign)

    def _is_sibling(self, module: types.ModuleType) -> bool:
        return any(module is one for modules in self._siblings.values() for one in modules.values())


def _file_of(module: types.ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "")


def _traceback(error: BaseException, file: Path) -> str:
    """The traceback from the experiment file on: what leads there is ours."""
    tb = error.__traceback__
    while tb and tb.tb_frame.f_code.co_filename != str(file):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb)).rstrip()


def _line(error: BaseException, file: Path) -> str:
    """``file:line`` of the last line of that file in the traceback."""
    number = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(file):
            number = frame.lineno
    return f"{file}:{number}" if number else str(file)
