"""From files to registrations: order, neighbours, errors, distexprunner's files of both versions."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from roomful.errors import InputError
from roomful.experiments import loader, version1
from roomful.experiments.loader import Loader, find_files
from roomful.experiments.plan import make_plan
from roomful.settings import Settings

HEAD = "from roomful.experiments import *\nservers = ServerList(Server('a', '10.0.0.1'))\n"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., list[str]]:
    """Load files and return the names of their experiments."""

    def load(*paths: str, compatibility_mode: bool = False, keep_going: bool = False) -> list[str]:
        with loader.environment(compatibility_mode):
            files = find_files([str(tmp_path / path) for path in paths])
            loaded = Loader(Settings(root=tmp_path), compatibility_mode).load(files, keep_going)
        groups = make_plan(loaded.registrations).experiments
        return [f"{one.registration.group}:{one.name}" for one in groups] + [why for _, why in loaded.broken]

    return load


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def experiment(name: str) -> str:
    return f"{HEAD}@reg_exp(servers=servers)\ndef {name}(servers): pass\n"


def test_arguments_give_the_order_and_folders_are_searched(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    write(tmp_path, z=experiment("last"), sub__b=experiment("b"), sub__deep__a=experiment("a"), sub__config="X = 1\n")
    write(tmp_path, **{"sub__.hidden__h": "raise SystemExit(1)\n"})
    assert load("z.py", "sub") == ["z:last", "b:b", "a:a"]
    assert load("sub", "z.py", "sub/b.py") == ["b:b", "a:a", "z:last"]


def test_neighbours_can_be_imported_and_are_kept_apart(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    text = (
        "import config\nfrom roomful.experiments import *\n@reg_exp(servers=config.servers)\ndef {}(servers): pass\n"
    )
    for folder in ("one", "two"):
        config = f"{HEAD}NAME = '{folder}'\n"
        named = text.format("f") + "f.__name__ = config.NAME\n"
        write(tmp_path, **{f"{folder}__config": config, f"{folder}__x": named, f"{folder}__y": named})
    before = (list(sys.path), "config" in sys.modules)
    assert load("one", "two", "one/y.py") == ["x:one", "y:one", "x:two", "y:two"]
    assert (list(sys.path), "config" in sys.modules) == (before[0], False)


def test_a_neighbour_wins_over_a_module_of_its_name(
    tmp_path: Path, load: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = types.ModuleType("config")
    monkeypatch.setitem(sys.modules, "config", other)
    write(
        tmp_path, e__config="NAME = 'mine'\n", e__a="import config; assert config.NAME == 'mine'\n" + experiment("a")
    )
    assert load("e/a.py") == ["a:a"]
    assert sys.modules["config"] is other


def test_neighbours_are_loaded_once_for_a_folder(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    write(tmp_path, e__counted="loads = []\n", e__a="import counted; counted.loads.append(1)\n" + experiment("a"))
    write(tmp_path, e__b="import counted; assert counted.loads == [1]\n" + experiment("b"), f__c=experiment("c"))
    assert load("e/a.py", "f", "e/b.py") == ["a:a", "c:c", "b:b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx.nope\n", r"broken.py:2: an error in the experiment file: AttributeError: 'int' object"),
        ("def f(:\n", r"broken.py:1: an error in the experiment file: SyntaxError"),
        ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (HEAD + "ServerList(servers, Server('a', 'b'))\n", r"broken.py:3: server id 'a' twice"),
        (HEAD + "servers['b']\n", r"broken.py:3: no server 'b'; there are: a"),
        (HEAD + "Console('x')\n", r"broken.py:3: bad format 'x'"),
        (
            HEAD + "grid = ParameterGrid(a=[1, 0], b=ComputedParam(lambda a: 1 // a))\n"
            "@reg_exp(servers=servers, params=grid)\ndef broken(servers, a, b): pass\n",
            r"broken.py:3: an error in the experiment file: ZeroDivisionError",
        ),
    ],
    ids=["error", "syntax", "import", "exit", "duplicate id", "unknown server", "handler", "computed parameter"],
)
def test_a_broken_file_is_named_with_the_line(
    tmp_path: Path, load: Callable[..., list[str]], text: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, broken=text, good=experiment("good"))
    with pytest.raises(InputError, match=message):
        load("good.py", "broken.py")
    assert "Traceback" in caplog.text or "SyntaxError" in caplog.text
    assert "importlib" not in caplog.text
    assert load("broken.py", "good.py", keep_going=True)[0] == "good:good"


def test_a_file_that_is_no_python_is_refused(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(InputError, match=r"notes.txt: is no Python file; experiment files' names end in .py"):
        load("notes.txt")


def test_a_file_that_fails_half_way_registers_nothing(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    write(tmp_path, half=experiment("half") + "1/0\n", good=experiment("good"))
    found = load("half.py", "good.py", keep_going=True)
    assert found[0] == "good:good"
    assert len(found) == 2


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["no/such.py"], "no/such.py: no such file or folder"),
        ([], "no experiments given"),
        (["empty"], "no Python files"),
    ],
)
def test_bad_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_files(paths)


def test_distexprunners_names_are_all_there(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    names = (
        "Server ServerList reg_exp ParameterGrid ComputedParam Console File SubstrMatcher EnvParser CSVGenerator "
        "Action ReturnCode StdinController GDB SOCKET_BIND sleep forward_stdin_to counter log IterClassGen "
        "any_failed ProcessGroup run_on_all"
    )
    text = f"from distexprunner import *\nimport distexprunner\nfor name in '{names}'.split():\n"
    text += "    assert globals()[name] is getattr(distexprunner, name)\nfrom distexprunner.outputs import Console\n"
    text += "s = ServerList(Server('node01', '127.0.0.1', 20000, field=True))\nassert s[0].port == 22\n"
    text += "assert Server('x', ip='h', port=5).ip == 'h'\nreg_exp(servers=s)(lambda servers: None)\n"
    write(tmp_path, old=text)
    assert load("old.py") == ["old:<lambda>"]
    assert "distexprunner" not in sys.modules


def test_version_1_files(tmp_path: Path, load: Callable[..., list[str]]) -> None:
    text = """
import experiment, time, config
from experiment import Base
class exp10(experiment.Base):
    SERVERS = [experiment.Server('node1', '127.0.0.1', custom_field=42)]
    RUN_ALWAYS = True
    def experiment(self, target): pass
class exp2(Base):
    SERVERS = exp10.SERVERS + [experiment.Server('node2', '127.0.0.1', config.SERVER_PORT + 1)]
    def experiment(self, target): pass
class Helper: pass
assert exp10.SERVERS[0].data.custom_field == 42
def factory(a, b):
    class exp3(experiment.Base):
        SERVERS = exp10.SERVERS
    return exp3
experiment.factory.Grid(factory, ['y', 'x'], range(9, 11))
experiment.factory.Generator(factory, [('z', 1)])
assert issubclass(experiment.errors.NoConnectionError, Exception) and experiment.actions.Restart
assert time.sleep.__module__.startswith('roomful') and time.time() > 0
"""
    write(tmp_path, v1=text, config="SERVER_PORT = 20000\n")
    names = "exp2 exp3_x_9 exp3_x_10 exp3_y_9 exp3_y_10 exp3_z_1 exp10"
    assert load("v1.py", compatibility_mode=True) == [f"v1:{name}" for name in names.split()]
    assert "experiment" not in sys.modules
    assert sys.modules["time"] is time
    with pytest.raises(InputError, match="No module named 'experiment'"):
        load("v1.py")


def test_numbers_sort_by_value() -> None:
    names = ["a_10", "b", "a_2", "a_1.5", "10a", "9a", "a"]
    assert sorted(names, key=version1.natural_key) == ["9a", "10a", "a", "a_1.5", "a_2", "a_10", "b"]
