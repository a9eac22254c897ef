"""Bring this toolbox, its host lists and a task file to the machine that is to be the server, and set it up there."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host, known_lists
from roomful.outcome import HostFailure
from roomful.settings import Settings
from roomful.ssh import HostConnection, connect

#: Lists what was put there: a folder that has it is ours, and what is no longer in it is removed the next time.
MANIFEST = ".roomful-toolbox"
#: Installing the packages of requirements.txt may take this long.
BOOTSTRAP_SECONDS = 900.0
#: Not copied from a checkout that git cannot list.
_LEFT_OUT = {".git", ".venv", ".roomful", "__pycache__", "results", "dist", ".hypothesis"}

# $1 the folder. Prints its absolute path; makes it unless it holds what is not ours.
_PREPARE = f"""\
case $1 in "~") d=$HOME;; "~/"*) d=$HOME/${{1#"~/"}};; /*) d=$1;; *) d=$HOME/$1;; esac
m=$d/{MANIFEST}
if [ -e "$d" ] && [ ! -f "$m" ] && [ ! -f "$m.old" ] && [ -n "$(ls -A "$d" 2>/dev/null || echo x)" ]; then
  echo "$d holds something else" >&2; exit 91
fi
mkdir -p "$d" && cd "$d" && {{ [ -f {MANIFEST} ] || [ -f {MANIFEST}.old ] || : >{MANIFEST}.old; }} && pwd -P
"""
# $1 the folder, $2 the archive, which has the manifest last: after a push that was cut there is only the old one.
_UNPACK = f"""\
cd "$1" || exit 1
[ ! -f {MANIFEST} ] || mv -f {MANIFEST} {MANIFEST}.old
tar -xzf "$2" || exit 1
LC_ALL=C comm -23 {MANIFEST}.old {MANIFEST} | while IFS= read -r f; do rm -f "./$f"; done
rm -f {MANIFEST}.old "$2"
"""


@dataclass(frozen=True)
class Pushed:
    """What was brought: into which folder there, how many files, and the command line that goes on from here."""

    directory: str
    files: int
    line: str


def push(
    host: Host,
    settings: Settings,
    into: str,
    tasks: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    checkout: Path | None = None,
) -> Pushed:
    """Copy the toolbox into a folder on the host and run its bootstrap there; twice is once.

    Each line that bootstrap says goes to ``on_line``; without it there is only the copy. What others made in that
    folder stays. Raises RoomfulError with what failed.
    """
    files = files_to_push(checkout or own_checkout(), settings, tasks)
    try:
        with connect(host, settings) as connection:
            # The last line: a start file of the shell may have had its say before.
            directory = _sh(connection, _PREPARE, into).strip().rpartition("\n")[2]
            packed = f"{directory}/{MANIFEST}.tar.gz"
            # Packed only now: it takes a second, and a host that cannot be reached tells at once.
            connection.put_bytes(pack(files), packed)
            _sh(connection, _UNPACK, directory, packed)
            if on_line:
                _bootstrap(connection, directory, on_line)
    except HostFailure as failure:
        raise RoomfulError(str(failure), where=host.label) from failure
    return Pushed(directory, len(files), next_line(host, settings, directory, tasks.name if tasks else ""))


def next_line(host: Host, settings: Settings, directory: str, tasks: str) -> str:
    """Return the command line that starts the server there, with the tasks if there are any."""
    start = ["./bootstrap", "inv", "start-server", *([f"--tasks={tasks}"] if tasks else [])]
    gateway = [f"--gateway={settings.gateway}"] if settings.gateway else []
    there = f"cd {shlex.quote(directory)} && {shlex.join(start)}"
    return shlex.join(["inv", "shell", host.label, *gateway, "--", there])


def own_checkout() -> Path:
    """Return the checkout that this code runs from.

    Raises RoomfulError for an installed package, which has no bootstrap to take along.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "bootstrap").is_file():
        fix = "call it in a clone, or install the package on the server"
        raise RoomfulError("this Roomful is an installed package: there is nothing to push", where=str(root), fix=fix)
    return root


def files_to_push(checkout: Path, settings: Settings, tasks: Path | None = None) -> dict[str, Path]:
    """Return what is brought, by its path there: the checkout, the project's host lists and settings, the task file.

    Raises InputError for a task file that cannot be read, or has the name of a file of the toolbox.
    """
    found = {str(path.relative_to(checkout)): path for path in _checkout_files(checkout)}
    for path in known_lists(settings).values():
        found[f"host_lists/{path.name}"] = path
    for name in ("invoke.yaml", "invoke.yml", "invoke.json"):
        if (settings.root / name).is_file():
            found[name] = settings.root / name
    if tasks:
        if not tasks.is_file() or not os.access(tasks, os.R_OK):
            raise InputError("cannot read the task file", where=str(tasks))
        if tasks.name in found and found[tasks.name].resolve() != tasks.resolve():
            raise InputError("the toolbox has a file of this name", where=str(tasks), fix="rename it")
        found[tasks.name] = tasks
    return found


def pack(files: dict[str, Path]) -> bytes:
    """Return the files as a compressed archive, the list of them last."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, path in files.items():
            archive.add(path.resolve(), name, recursive=False, filter=_without_owner)
        manifest = "".join(f"{name}\n" for name in sorted(files, key=os.fsencode)).encode(errors="surrogateescape")
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(manifest)
        archive.addfile(info, io.BytesIO(manifest))
    return buffer.getvalue()


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _checkout_files(checkout: Path) -> Iterator[Path]:
    """Yield the files of a checkout: what git tracks or would, or (without git) all but what is made there."""
    if (checkout / ".git").exists() and shutil.which("git"):
        argv = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode == 0:
            names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
            yield from (checkout / name for name in names if (checkout / name).is_file() and "\n" not in name)
            return
    for folder, folders, names in os.walk(checkout):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.endswith("_cache"))
        yield from (Path(folder) / name for name in sorted(names) if "\n" not in name)


def _bootstrap(connection: HostConnection, directory: str, on_line: Callable[[str], None]) -> None:
    said = bytearray()
    lines: list[str] = []

    def take(stream: str, chunk: bytes) -> None:
        del stream
        said.extend(chunk)
        *whole, rest = bytes(said).split(b"\n")
        said[:] = rest
        for line in whole:
            lines.append(line.decode(errors="replace"))
            on_line(lines[-1])

    script = 'cd "$1" && ./bootstrap inv --version'
    argv = ["sh", "-c", script, "bootstrap", directory]
    done = connection.execute(argv, timeout=BOOTSTRAP_SECONDS, check=False, on_output=take)
    if done.exit_code != 0:
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {done.exit_code}")
        raise HostFailure("error", f"bootstrap failed there: {last}")


def _sh(connection: HostConnection, script: str, *words: str) -> str:
    return connection.execute(["sh", "-s", "--", *words], stdin=script.encode()).text
