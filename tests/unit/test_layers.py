"""Imports flow one way: fabfile -> roomful -> roomful.agent."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
#: The SSH layer: what connects, what reads keys for it, and what keeps one channel open.
SSH = {
    CHECKOUT / "roomful" / name
    for name in ("ssh.py", "connection.py", "channel.py", "identity.py", "transport.py", "remote_stream.py")
}

#: The lock of a whole machine is one file that imports nothing of ours; it goes to hosts beside what takes it there.
LOCK, TAKES_LOCK = "roomful.agent.host_lock", CHECKOUT / "roomful" / "remote" / "bench_prepare.py"


def imported(path: Path, package: str) -> Iterator[str]:
    """Yield the absolute name of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parents = package.split(".")
                base = parents[: len(parents) - node.level + 1] + base
            # `from roomful import agent` imports a module as well as `from roomful.agent import x` does.
            for alias in node.names:
                yield ".".join([*base, alias.name])


def modules(folder: str) -> list[Path]:
    """All Python files below a folder of the checkout."""
    found = sorted((CHECKOUT / folder).rglob("*.py"))
    assert found, f"no modules in {folder}/"
    return found


def package_of(path: Path) -> str:
    """The dotted package that a file's relative imports start from."""
    return ".".join(path.parent.relative_to(CHECKOUT).parts)


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or below it."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def violations(folder: str, allowed: Callable[[str, Path], bool]) -> list[str]:
    """The imports in a folder that a rule does not allow."""
    return [
        f"{path.relative_to(CHECKOUT)} imports {name}"
        for path in modules(folder)
        for name in imported(path, package_of(path))
        if not allowed(name, path)
    ]


def test_the_agent_imports_only_itself_the_standard_library_and_redis() -> None:
    def allowed(name: str, path: Path) -> bool:
        return within(name, "roomful.agent", "redis") or name.split(".")[0] in sys.stdlib_module_names

    assert violations("roomful/agent", allowed) == []


@pytest.mark.parametrize("package", ["remote", "workdir"])
def test_programs_for_other_hosts_import_only_themselves_and_the_standard_library(package: str) -> None:
    def allowed(name: str, path: Path) -> bool:
        ours = within(name, f"roomful.{package}") or (path == TAKES_LOCK and within(name, LOCK))
        return ours or name.split(".")[0] in sys.stdlib_module_names

    assert violations(f"roomful/{package}", allowed) == []


def test_the_lock_that_is_shipped_alone_imports_the_standard_library_only() -> None:
    path = CHECKOUT / "roomful" / "agent" / "host_lock.py"
    assert {name.split(".")[0] for name in imported(path, "roomful.agent")} <= sys.stdlib_module_names


def test_the_library_imports_no_task_module() -> None:
    def allowed(name: str, path: Path) -> bool:
        return not within(name, "fabfile", "tasks", "roomful.fabfile", "tests")

    assert violations("roomful", allowed) == []


def test_the_library_does_not_know_invoke() -> None:
    """Invoke is the command line; only the SSH layer meets it, through Fabric."""

    def allowed(name: str, path: Path) -> bool:
        return path in SSH or not within(name, "invoke")

    assert violations("roomful", allowed) == []


@pytest.mark.parametrize("folder", ["roomful", "fabfile"])
def test_only_the_ssh_layer_imports_fabric_and_paramiko(folder: str) -> None:
    def allowed(name: str, path: Path) -> bool:
        return path in SSH or not within(name, "fabric", "paramiko")

    assert violations(folder, allowed) == []


def test_task_modules_import_each_other_relatively() -> None:
    """The wheel carries them as roomful.fabfile: an absolute `import fabfile` would fail there."""
    absolute = [
        f"{path.relative_to(CHECKOUT)}: {ast.unparse(node)}"
        for path in modules("fabfile")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.Import) and any(within(alias.name, "fabfile") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and within(node.module or "", "fabfile"))
    ]
    assert absolute == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import redis.client", ["redis.client"]),
        ("from redis import Redis", ["redis.Redis"]),
        ("from . import queue", ["roomful.agent.queue"]),
        ("from ..errors import RoomfulError", ["roomful.errors.RoomfulError"]),
        ("def f():\n    import fabric", ["fabric"]),
    ],
)
def test_the_reader_of_imports(tmp_path: Path, source: str, names: list[str]) -> None:
    """The rules above hold only if this sees every form of import."""
    path = tmp_path / "module.py"
    path.write_text(source)
    assert list(imported(path, "roomful.agent")) == names
