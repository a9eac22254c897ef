"""A benchmark run as a whole: its name, its folders, and a cluster of its own beside the project's.

The queue, the agents and the workdir of a run are its own, so that a cluster of the project's that works on the same
machines goes on as it is, and nothing is left of a run that has ended but its results.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roomful.agent.private import Lock
from roomful.clean import clean
from roomful.clients import stop_clients
from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host, read_host_list, write_host_list, write_text_atomically
from roomful.outcome import Outcome
from roomful.server import Server
from roomful.settings import Settings
from roomful.state import ProjectState, private_directory

VERSION = 1
#: An agent that cannot reach the queue lets its job run on for this long: a lost connection kills no measurement.
CUT_OFF_SECONDS = 7 * 24 * 3600.0
#: The host list of a run; before all others by name, so that its hosts are the ones that a label means.
HOSTS = "0"
#: The whole machine's lock, unless the setting ``host_lock`` names another.
LOCK = "/tmp/benchexec.lock"
#: What is told while a run goes on.
LOG = "log.txt"


@dataclass(frozen=True)
class Leftover:
    """A host that could not be cleaned at the end, and why."""

    host: Host
    why: str


class Campaign:
    """A run of a name in a project. ``folder`` holds its results, ``settings`` are those of its own cluster."""

    def __init__(self, name: str, settings: Settings) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", name):
            fix = "give one with --name: at most 41 letters, digits, '-', '_', '.'"
            raise InputError(f"bad name of a run {name!r}", fix=fix)
        self.name = name
        self.folder = settings.path(settings.results) / "bench" / name
        self.root = settings.root / ".roomful" / "bench" / name
        self._project = settings
        self._lock = Lock(self.root / "lock")
        self.settings = self._own(settings)

    def _own(self, settings: Settings) -> Settings:
        """Return settings under which nothing is shared with the project's cluster but the way to the hosts."""
        paths = {name: str(settings.path(getattr(settings, name))) for name in ("ssh_config", "known_hosts")}
        key = str(settings.path(settings.identity_file)) if settings.identity_file else ""
        cluster = ProjectState(settings.replace(root=self.root, cluster="")).cluster_name
        folders = {
            name: f"{value.rstrip('/')}/{cluster}" if (value := getattr(settings, name)) else ""
            for name in ("server_directory", "client_directory")
        }
        return settings.replace(
            root=self.root,
            cluster="",
            server_url="",
            host_lists="host_lists",
            identity_file=key,
            host_lock=settings.host_lock or LOCK,
            workdir=f"{settings.workdir.rstrip('/')}-{cluster}",
            cut_off_grace_seconds=max(settings.cut_off_grace_seconds, CUT_OFF_SECONDS),
            **paths,
            **folders,
        )

    # -- beginning ----------------------------------------------------------------------------------------------

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Take the run for this process, and note what it is; a run that is there must be the same, and resumed.

        Raises InputError, and RoomfulError where another process works on it.
        """
        known = self._known()
        if known is not None and not resume:
            fix = "go on with it: add --resume; or begin another: --name NAME"
            raise InputError(f"there is a run {self.name!r} already", where=str(self.folder), fix=fix)
        if known is None and resume:
            raise InputError(f"there is no run {self.name!r} to resume", where=str(self.folder))
        if known is not None:
            changed = sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key))
            if changed:
                why = f"changed since it began: {', '.join(changed)}; results of different runs do not mix"
                fix = "undo that, or begin another with --name"
                raise InputError(f"cannot resume {self.name!r}", where=str(self.folder), why=why, fix=fix)
        self._hold()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.folder / "run.json", json.dumps(identity, indent=1) + "\n")
        except OSError as error:
            raise RoomfulError("cannot write", where=str(self.folder), why=error.strerror or "") from error

    def _known(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RoomfulError("cannot read", where=str(path), why=str(error)) from None
        return document if isinstance(document, dict) else {}

    def _hold(self) -> None:
        private_directory(private_directory(self._project.root / ".roomful") / "bench")
        private_directory(self.root)
        if not self._lock.acquire():
            raise RoomfulError(f"another process works on the run {self.name!r}", fix="wait for it, or end it")

    def note_hosts(self, hosts: Sequence[Host]) -> None:
        """Keep the hosts, and those of an earlier call, for what finds hosts by their labels, and for the end."""
        lists = self.root / "host_lists"
        lists.mkdir(exist_ok=True)
        known = {host.label: host for host in (*self.hosts(), *hosts)}
        own = self._project.path(self._project.host_lists)
        for path in own.glob("*.txt"):
            # A gateway is looked up in them.
            shutil.copy(path, lists / path.name)
        write_host_list(lists / f"{HOSTS}.txt", known.values())

    def hosts(self) -> tuple[Host, ...]:
        """Return the hosts that this run has used, as long as it has not ended."""
        path = self.root / "host_lists" / f"{HOSTS}.txt"
        return read_host_list(path).hosts if path.exists() else ()

    # -- meanwhile ----------------------------------------------------------------------------------------------

    def log(self, line: str) -> None:
        """Write a line to the run's log."""
        # What happens counts more than its being written down.
        with contextlib.suppress(OSError), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self) -> list[Leftover]:
        """Stop the agents and the queue and remove what was shipped; results here stay.

        Returns the hosts where something is left; the run is remembered until nothing is.
        """
        if self._lock.fd is None:
            if not self.root.is_dir():
                return []
            self._hold()
        hosts = self.hosts()
        left = [Leftover(outcome.host, _why(outcome)) for outcome in self._stopped(hosts)]
        with contextlib.suppress(RoomfulError):
            Server.of(self.settings).stop(forget=True)
        if left:
            write_host_list(self.root / "host_lists" / f"{HOSTS}.txt", [one.host for one in left])
        else:
            shutil.rmtree(self.root, ignore_errors=True)
        return left

    def abandon(self) -> list[Leftover]:
        """End a run that has brought nothing yet, as if it had not begun."""
        left = self.end()
        with contextlib.suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {"run.json", LOG}:
                shutil.rmtree(self.folder)
                self.folder.parent.rmdir()
        return left

    def _stopped(self, hosts: Sequence[Host]) -> list[Outcome[Any]]:
        if not hosts:
            return []
        stopped = stop_clients(hosts, self.settings, now=True, forget=True)
        cleaned = clean([outcome.host for outcome in stopped.ok], self.settings, everything=True)
        return [*stopped.not_ok, *cleaned.not_ok]


def _why(outcome: Outcome[Any]) -> str:
    return ": ".join(part for part in (outcome.reason, outcome.detail) if part)
