"""The whole workflow in the lab, as the commands that a user would type, in a project folder of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roomful import lab
from roomful.errors import RoomfulError
from roomful.lab import Lab

#: Where the checkout or the installed package keeps ``resources/`` (the example workload).
HERE = Path(__file__).resolve().parent
#: The demo's hosts: two of them are broken on purpose.
COUNT = 8
OFF = "lab07"
REFUSES = "lab08"
FOLDER = "out"


@dataclass(frozen=True)
class DemoResult:
    """What the demo showed: the client rows of ``inv status``, the checker's words, and the seconds it took."""

    clients: list[dict[str, Any]]
    checked: str
    seconds: float
    commands: int


@dataclass
class Demo:
    """One run of the demo. ``say`` gets every line for the person who watches; nothing else is printed here."""

    say: Callable[[str], None]
    name: str = "demo"
    count: int = COUNT
    rootless: bool | None = None
    root: Path = field(default_factory=Path)
    commands: int = 0
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self) -> DemoResult:
        """Bring the lab up, do every step, check the result, and remove every trace.

        Raises RoomfulError if a step does not do what it must, or the result is wrong.
        """
        start = time.monotonic()
        with self._project(), self._lab() as room, self._cluster():
            document = self._steps(room)
        return DemoResult(document["clients"], document["checked"], time.monotonic() - start, self.commands)

    @contextlib.contextmanager
    def _project(self) -> Iterator[None]:
        self.root = Path(tempfile.mkdtemp(prefix="roomful-demo-"))
        try:
            source = HERE.parent if (HERE.parent / "tasks.py").exists() else HERE
            module = "fabfile" if source == HERE.parent else "roomful.fabfile"
            path = f"import sys\n\nsys.path.insert(0, {str(source)!r})\n" if source == HERE.parent else ""
            (self.root / "tasks.py").write_text(f"{path}from {module} import ns\n")
            shutil.copytree(source / "resources", self.root / "resources")
            self.say(f"a project of its own in {self.root}: tasks.py says `from {module} import ns`")
            yield
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    @contextlib.contextmanager
    def _lab(self) -> Iterator[Lab]:
        broken = ["--off", OFF, "--refuse-key", REFUSES]
        rootless = [] if self.rootless is None else [f"--{'' if self.rootless else 'no-'}rootless"]
        try:
            self._inv("lab.up", "--name", self.name, "--count", str(self.count), *broken, *rootless)
            yield lab.get(self.name)
        finally:
            self._inv("lab.down", "--name", self.name)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[None]:
        try:
            yield
        finally:
            # Also after a step that failed: nothing may stay. A cluster that never started has nothing to stop.
            for words in (("stop-clients", "--now", "--max-failed=100%"), ("stop-server", "--forget", "--yes")):
                with contextlib.suppress(RoomfulError):
                    self._inv(*words)

    def _steps(self, room: Lab) -> dict[str, Any]:
        if room.rootless:
            # Every loopback address is up: scan only the first few, for the port of the lab's servers.
            where = ["--network", f"{ipaddress.ip_network(room.subnet)[0]}/28", "--port", str(room.port)]
        else:
            where = ["--network", room.subnet]
        self._inv("discover", *where, "--output", "found")
        self._inv("filter", "--hosts", self.name, "--output", "usable")
        # From here on every step is meant for these; a setting saves typing --hosts each time.
        self.environment["INVOKE_ROOMFUL_HOSTS"] = "usable"
        self._inv("create-folders", FOLDER)
        self._inv("deploy")
        self._inv("start-server")
        self._inv("start-clients")
        self._inv("submit", "resources/tasks.txt", "--wait")
        self._inv("status")
        clients = json.loads(self._inv("status", "--json", quiet=True))["clients"]
        self._inv("collect", FOLDER)
        shown = "python3 resources/check.py results"
        self.say(f"\n$ {shown}")
        self.commands += 1
        check = [sys.executable, str(self.root / "resources" / "check.py"), str(self.root / "results")]
        checked = self._call(check, shown, quiet=True)
        self.say(checked.rstrip("\n"))
        return {"clients": clients, "checked": checked}

    def _inv(self, *words: str, quiet: bool = False) -> str:
        return self._call([sys.executable, "-m", "invoke", *words], shlex.join(["inv", *words]), quiet)

    def _call(self, argv: Sequence[str], shown: str, quiet: bool = False) -> str:
        if not quiet:
            self.commands += 1
            self.say(f"\n$ {shown}")
        # Both streams go straight to the person, in the order they come; only what is read here is piped.
        wanted = subprocess.PIPE if quiet else None
        child = subprocess.run(
            argv,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=wanted,
            text=True,
            check=False,
        )
        if child.returncode != 0:
            raise RoomfulError(f"{shown} ended with exit code {child.returncode}", where="demo")
        return child.stdout or ""
