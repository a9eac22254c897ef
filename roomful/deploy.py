"""Bring files to the hosts, atomically on each: the old version or the whole new one, whatever is cut when.

What is on the hosts is described in ``roomful/workdir/releases.py``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roomful import host_program
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.manifest import Manifest, scan
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.paths import inside_workdir, key_of
from roomful.relay import Relayed, Route, spread
from roomful.rsync import WRITE_FAILED, Rsync, Transferred, push_options
from roomful.sent import Sent
from roomful.settings import Settings
from roomful.sharing import Sharing
from roomful.state import ProjectState, private_directory

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: Verifying a deployment may take this much longer for each byte, on top of the time every command has.
SECONDS_PER_BYTE = 1 / 20_000_000
KEEPALIVE_SECONDS = 20
#: What the name of a run's list ends with.
LIST = ".list"
#: The commit program's reason where a file there is not what it is here.
DIFFERS = "differs"
FULL = ("disk-full", "quota")
#: At most so many cut pushes are looked through for files that need not be sent again.
MOST_CUT_PUSHES = 3


@dataclass(frozen=True)
class Deployment:
    """What to deploy where. ``dest`` is a folder in the workdir; empty: the workdir itself.

    ``delete`` removes what earlier deployments put there and SOURCE does not have; what tasks made always stays.
    ``replace`` moves aside what is in the way and was not deployed. ``exclude`` are patterns as rsync has them.
    """

    source: Path
    dest: str = ""
    delete: bool = False
    replace: bool = False
    exclude: tuple[str, ...] = ()
    #: One of ``relay.MODES``.
    relay: str = "off"


@dataclass(frozen=True)
class Deployed:
    """What became of a host: ``result`` is ``deployed``, or ``current`` where nothing had to be done.

    ``shared_with`` is the host that did it for both, where they share the disk. ``notes`` say what had to make way.
    """

    result: str
    bytes_sent: int = 0
    files_sent: int = 0
    shared_with: str = ""
    notes: tuple[str, ...] = ()


def default_source(settings: Settings) -> Path:
    """Return what is deployed where no SOURCE is given: the project's ``resources/``, else the package's example.

    Raises InputError where there is neither.
    """
    own, example = settings.root / "resources", Path(__file__).parent / "resources"
    for folder in (own, example):
        if folder.is_dir():
            return folder
    fix = "name what to deploy: inv deploy FOLDER"
    raise InputError("no SOURCE given, and there is no such folder", where=str(own), fix=fix)


def place_of(dest: str) -> str:
    """Return the folder in the workdir that ``dest`` names, written in one way; raises InputError if it leads out."""
    return inside_workdir(dest, "--dest") if dest else ""


def deploy(
    hosts: Sequence[Host],
    settings: Settings,
    deployment: Deployment,
    on_outcome: Callable[[Outcome[Deployed]], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Outcomes[Deployed]:
    """Bring a deployment to all hosts. ``on_note`` gets a sentence on how the bytes travelled if relayed.

    ``on_bytes`` gets, now and then, how many bytes of files have gone out from here so far.

    Raises InputError for what cannot be deployed, before any host is touched, and MissingProgram.
    """
    from roomful.ssh import fan_out

    dest = place_of(deployment.dest)
    found = scan(deployment.source, deployment.exclude)
    with Rsync(settings) as rsync, _run(settings) as run:
        run.files.write_bytes(found.file_list())
        # The digests are made while the first hosts log in.
        reading = _Reading(found)
        indices = {host: index for index, host in enumerate(hosts)}
        relayed = Relayed("")
        sent = Sent(on_bytes)
        if deployment.relay != "off":
            where = {"workdir": settings.workdir, "dest": dest, "key": key_of(dest)}
            relayed = spread(
                hosts, settings, where, reading.manifest(), Route(deployment.relay, run.controller, sent)
            )
            if relayed.note and on_note:
                on_note(relayed.note)
        if on_outcome:
            for given_up in relayed.given_up.values():
                on_outcome(given_up)
        labels = [host.label for host in hosts]
        session = _Session(settings, deployment, dest, rsync, run, reading, labels, relayed.token, sent)
        left = [host for host in hosts if host not in relayed.given_up]
        done = fan_out(left, lambda c: session.deploy_to(c, indices[c.entry]), settings, on_outcome)
        outcomes = Outcomes({o.host: o for o in (*done, *relayed.given_up.values())}[host] for host in hosts)
    if reading.error:
        raise reading.error
    return outcomes


class _Reading:
    """The manifest with its digests, being made in a thread of its own."""

    def __init__(self, found: Manifest) -> None:
        self.error: Exception | None = None
        self._found = found
        self._manifest: Manifest | None = None
        self._thread = threading.Thread(target=self._read, daemon=True, name="digests")
        self._thread.start()

    def _read(self) -> None:
        try:
            self._manifest = self._found.hashed()
        except Exception as error:
            self.error = error

    def manifest(self) -> Manifest:
        self._thread.join()
        if self._manifest is None:
            raise self.error or RuntimeError("no manifest")
        return self._manifest


@dataclass(frozen=True)
class _Run:
    """This run among others: ``controller`` names the project, ``token`` the run."""

    controller: str
    token: str
    folder: Path

    @property
    def files(self) -> Path:
        """The list of what is deployed, for rsync."""
        return self.folder / f"{self.token}{LIST}"

    def is_cut(self, staging: str) -> bool:
        """Tell whether a staging folder on a host belongs to a run of this project that is over."""
        _, _, rest = staging.rpartition("@")
        controller, _, token = rest.partition(".")
        if controller != self.controller or token == self.token:
            return False
        try:
            with (self.folder / token).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def controller_name(settings: Settings) -> str:
    """Return what tells this project on this machine from others, as one word."""
    root = os.fsencode(settings.root.resolve())
    return hashlib.sha256(os.uname().nodename.encode() + b"\0" + root).hexdigest()[:12]


@contextmanager
def _run(settings: Settings) -> Iterator[_Run]:
    """Open a run: a file that is locked as long as this process works on it, so that others see who lives."""
    folder = private_directory(private_directory(ProjectState(settings).directory) / "deploying")
    run = _Run(controller_name(settings), secrets.token_hex(8), folder)
    path = folder / run.token
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            for other in folder.iterdir():
                if run.is_cut(f"@{run.controller}.{other.name.removesuffix(LIST)}"):
                    other.unlink(missing_ok=True)
            yield run
        finally:
            run.files.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


@dataclass
class _Session:
    """One deployment to all its hosts."""

    settings: Settings
    deployment: Deployment
    dest: str
    rsync: Rsync
    run: _Run
    reading: _Reading
    labels: Sequence[str]
    #: What the names of the seeds end with that hosts have relayed; empty: none.
    relayed: str
    sent: Sent
    sharing: Sharing = field(default_factory=Sharing)

    def deploy_to(self, connection: HostConnection, index: int) -> Deployed:
        """Do what one host needs; raises HostFailure."""
        # While rsync works on a connection of its own, this one has nothing to say: routers forget such ones.
        connection.transport.set_keepalive(KEEPALIVE_SECONDS)
        manifest = self.reading.manifest()
        request = self._request(manifest, index)
        answer = host_program.run(connection, "releases", request)
        if answer["current"]:
            if cut := self._cut(answer):
                host_program.run(connection, "discard", request | {"stagings": cut})
            return Deployed("current")
        with self.sharing.turn(index, answer["seen"]) as turn:
            if turn.done_by is not None:
                answer = host_program.run(connection, "releases", request)
                if answer["current"]:
                    return Deployed("deployed", shared_with=self.labels[turn.done_by])
            deployed = self._push(connection, manifest, request, answer)
            turn.done()
            return deployed

    def _cut(self, answer: dict[str, Any]) -> list[str]:
        """Return which pushes to a host were cut, of all that are there."""
        found = [name for name in answer["stagings"] if self.run.is_cut(name)]
        return sorted(found, key=lambda name: bool(self.relayed) and name.endswith(f".{self.relayed}"))

    def _explained(self, connection: HostConnection, failure: HostFailure, commit: dict[str, Any]) -> HostFailure:
        """Ask the host what is full where rsync only said that it could not write."""
        if failure.reason == WRITE_FAILED and not failure.detail:
            try:
                host_program.run(connection, "room", commit)
            except HostFailure as found:
                return HostFailure(found.reason, found.detail)
        return failure

    def _request(self, manifest: Manifest, index: int) -> dict[str, Any]:
        return {
            "workdir": self.settings.workdir,
            "dest": self.dest,
            "key": key_of(self.dest),
            "entries": manifest.entry_digests(),
            "delete": self.deployment.delete,
            "replace": self.deployment.replace,
            "run": self.run.token,
            "index": index,
        }

    def _push(
        self, connection: HostConnection, manifest: Manifest, request: dict[str, Any], answer: dict[str, Any]
    ) -> Deployed:
        staging = f"{connection.entry.key[:80]}-{request['index']}@{self.run.controller}.{self.run.token}"
        target = f"{answer['directory']}/staging/{staging}"
        release = [f"{answer['directory']}/releases/{answer['release']}"] if answer["release"] else []
        cut = self._cut(answer)
        # The run's token makes the name new; the digest is for people.
        digest = hashlib.sha256("".join(sorted(request["entries"].values())).encode()).hexdigest()[:12]
        commit = request | {
            "name": f"{digest}-{self.run.token}-{request['index']}",
            "staging": staging,
            "dead": cut,
            "seeds": [],
            "items": [item.to_wire() for item in manifest.items],
        }
        seconds = self.settings.command_timeout_seconds + manifest.size * SECONDS_PER_BYTE
        moved = Transferred(0, 0, 0)
        basis = release + [f"{answer['directory']}/staging/{name}" for name in cut[-MOST_CUT_PUSHES:]]
        compare_content = False
        seeds = [name for name in cut if self.relayed and name.endswith(f".{self.relayed}")]
        while True:
            try:
                if seeds:
                    # What a relay has brought whole needs no rsync.
                    brought, seeds = seeds, []
                    done = host_program.run(connection, "commit", commit | {"seeds": brought}, timeout=seconds)
                    if "incomplete" not in done:
                        break
                if answer["free"] is not None and manifest.size > answer["free"]:
                    held = [os.path.basename(folder) for folder in basis[len(release) :]]
                    host_program.run(connection, "room", commit | {"held": held}, timeout=seconds)
                options = push_options(self.run.files, basis, compare_content)
                moved += self.rsync.push(connection, manifest.root, target, options, self.sent.meter())
                done = host_program.run(connection, "commit", commit, timeout=seconds)
                break
            except HostFailure as problem:
                failure = self._explained(connection, problem, commit)
                if failure.reason in FULL:
                    # There is no room for what was cut: away with it, and once more if that can help.
                    host_program.run(connection, "discard", request | {"stagings": [staging, *cut]})
                    if basis == release:
                        raise failure from problem
                    basis = release
                elif failure.reason == DIFFERS and not compare_content:
                    # Another content with the same size and time, as where only seconds are kept: read them all.
                    compare_content = True
                else:
                    raise failure from problem
        notes = [f"moved to .roomful/replaced: {path}" for path in done["replaced"]]
        if done["kept"]:
            notes.append(f"{done['kept']} files of tasks kept in .roomful/kept: SOURCE has others in their place")
        return Deployed("deployed", moved.bytes_sent, moved.files, notes=tuple(notes))


__all__ = ["Deployed", "Deployment", "default_source", "deploy", "place_of"]
