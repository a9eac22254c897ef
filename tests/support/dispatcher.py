"""A project with a dispatcher, and dsh installed as the wheel installs it."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from roomful.dispatch.control import ask
from roomful.lab import Lab
from tests.support.inv import CHECKOUT, Project, project_for
from tests.support.sleepers import alive, new_mark
from tests.support.waiting import wait_until


def install(folder: Path) -> Path:
    """Lay out a Python environment with dsh in it; returns its folder of programs."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "roomful").symlink_to(CHECKOUT / "roomful")
    # The other packages are those of the environment that the tests run in.
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    (programs / "dsh").write_bytes((CHECKOUT / "roomful" / "dispatch" / "dsh.sh").read_bytes())
    (programs / "dsh").chmod(0o755)
    return programs


def pretend_load(dsh: Sequence[str], environment: Mapping[str, str], host: str, load: float) -> None:
    """Mount a load average over /proc/loadavg of a host in a namespace: by itself it has this machine's."""
    mark = new_mark()
    argv = [*dsh, "-n", "--on", host, "sleep", mark]
    with subprocess.Popen(argv, cwd="/", env=environment) as process:
        (pid,) = wait_until(lambda: alive(mark, "sleep"), 10)
        text = f"{load:.2f} {load:.2f} {load:.2f} 1/100 1"
        script = f"echo {text} > /tmp/loadavg-of-a-test && mount --bind /tmp/loadavg-of-a-test /proc/loadavg"
        subprocess.run(["nsenter", "--mount", f"--target={pid}", "--", "sh", "-c", script], check=True)
        process.kill()


@dataclass
class Room:
    """A project whose dispatcher was started, and a folder that it runs commands in."""

    project: Project
    work: Path
    programs: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        """The dispatcher's socket."""
        return Path(os.readlink(self.project.root / ".roomful" / "dispatcher"))

    @property
    def pid(self) -> int:
        """The dispatcher's process."""
        return int(ask(self.socket, b"about")["pid"])

    def loads(self) -> list[dict[str, Any]]:
        """What it knows of its hosts."""
        found: list[dict[str, Any]] = ask(self.socket, b"load")
        return found

    @property
    def environment(self) -> Mapping[str, str]:
        """The project's, with dsh on the PATH."""
        return {**self.project.environment, "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def sh(self, line: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a shell's command line in the folder."""
        options = {"stdin": subprocess.DEVNULL, **options}
        argv = ["sh", "-c", line]
        return subprocess.run(
            argv, cwd=self.work, env=self.environment, capture_output=True, timeout=timeout, check=False, **options
        )

    def dsh(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a dsh in the folder."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        argv = [str(self.programs / "dsh"), *words]
        process = subprocess.Popen(argv, cwd=self.work, env=self.environment, **{**pipes, **options})
        self.started.append(process)
        return process

    def close(self) -> None:
        """End everything."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        self.project.inv("stop-dispatcher")


@pytest.fixture(scope="module")
def running_room(rootless_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("dispatch")
    project = project_for(
        rootless_lab,
        folder / "project",
        folder / "home",
        ssh_config=str(rootless_lab.ssh_config),
        known_hosts=str(rootless_lab.known_hosts),
    )
    work = folder / "project" / "work"
    work.mkdir()
    room = Room(project, work, install(folder / "python"))
    done = project.inv("start-dispatcher", "--hosts", "lab")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: all(row["load"] is not None for row in room.loads()), 15, room.loads)
    yield room
    room.close()


@pytest.fixture
def room(running_room: Room, tmp_path: Path) -> Room:
    """The same dispatcher, with a folder of the test's own."""
    work = running_room.work / tmp_path.name
    work.mkdir()
    return Room(running_room.project, work, running_room.programs)
