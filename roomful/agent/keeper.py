"""The keeper: holds one link to every client, and gives back the tasks of agents that died.

One process on the server's machine, with one OpenSSH child for each client in ``clients.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import time
from pathlib import Path
from typing import Any, Mapping

import redis

from roomful.agent import leases
from roomful.agent.keeper_link import Link, valid_record
from roomful.agent.keys import Keys
from roomful.agent.private import read_json, write_json
from roomful.agent.scripts import Scripts
from roomful.agent.supervisor import logger_to
from roomful.agent.valkey import passwords_in

VERSION = 1
#: Most attempts under way: each costs a key exchange here, but a dead host only holds its place.
MOST_ATTEMPTS = 64
#: Most attempts started in one turn, so that the answers of others are read in between.
STARTS_A_TURN = 8
EXPIRE_SECONDS = 1.0
#: How often the record of clients is looked at, and link states are written down.
LOOK_SECONDS = 0.2


class Keeper:
    """Keep the links of the folder's ``clients.json``."""

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory = directory
        self.plan = plan
        self.log = logger_to(directory / "keeper.log")
        self.links: dict[str, Link] = {}
        self.leaving: list[Link] = []
        self.stopping = False
        self.selector = selectors.DefaultSelector()
        self.settings = dict(plan.get("settings", {}))
        password = passwords_in(directory)["controller"]
        self.valkey = redis.Redis(
            unix_socket_path=plan["socket"],
            username="controller",
            password=password,
            socket_timeout=2,
            lib_name=None,
            lib_version=None,
        )
        self.keys = Keys(str(plan["cluster"]))
        self.scripts = Scripts(self.valkey, self.keys.prefix)
        self._seen: object | None = None
        self._looked = 0.0
        self._expired = 0.0
        self._published: dict[str, str] | None = None
        self._complained = ""

    def run(self) -> int:
        """Run until a SIGTERM; returns the exit code."""
        wake, wake_end = os.pipe()
        for fd in (wake, wake_end):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_end)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.selector.register(wake, selectors.EVENT_READ)
        self.log.info("keeper started, pid %d", os.getpid())
        while not self.stopping:
            now = time.monotonic()
            self._look(now)
            self._start_links(now)
            self._expire(now)
            for key, _ in self.selector.select(LOOK_SECONDS):
                if key.data is None:
                    os.read(wake, 4096)
                else:
                    self._read(key.data, time.monotonic())
            now = time.monotonic()
            for link in self.links.values():
                link.tend(now)
        self._end_links()
        self.log.info("keeper ended")
        return 0

    def _end_links(self) -> None:
        """Let every link's other side clean up, at the same time; then end what is left by force."""
        for link in self.links.values():
            link.stop()
        left = [*self.links.values(), *self.leaving]
        for number, seconds in ((None, 1.5), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
            left = [link for link in left if not link.finished(number)]
            deadline = time.monotonic() + seconds
            while left and time.monotonic() < deadline:
                time.sleep(0.02)
                left = [link for link in left if not link.finished()]

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self.stopping = True

    def _look(self, now: float) -> None:
        """Follow clients.json, and tell how the links are."""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        path = self.directory / "clients.json"
        try:
            info = os.stat(str(path))
            seen: object | None = (info.st_ino, info.st_mtime_ns, info.st_size)
        except FileNotFoundError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            self._take_clients((read_json(path) or {}).get("clients", {}))
        for link in list(self.leaving):
            if link.finished(signal.SIGKILL if now - link.since > 5.0 else None):
                self.leaving.remove(link)
        self._publish()

    def _take_clients(self, clients: Mapping[str, Any]) -> None:
        for label, record in clients.items():
            link = self.links.get(label)
            if not valid_record(record):
                self.log.error("the record of %s is not valid", label)
            elif link is None:
                self.links[label] = Link(label, record, self.plan["socket"])
            elif link.record != record:
                # Recorded anew: its agent was started (again), and somebody waits for it.
                same_place = {**link.record, "generation": ""} == {**record, "generation": ""}
                if same_place and link.state in ("up", "connecting"):
                    link.record = record
                elif same_place:
                    link.record = record
                    link.retry_now()
                else:
                    self._drop(link)
                    self.links[label] = Link(label, record, self.plan["socket"])
        for label in set(self.links) - set(clients):
            self._drop(self.links.pop(label))

    def _drop(self, link: Link) -> None:
        self.log.info("%s: no longer a client", link.label)
        self._unwatch(link)
        link.stop()
        self.leaving.append(link)

    def _start_links(self, now: float) -> None:
        due = [link for link in self.links.values() if link.process is None and link.next_attempt <= now]
        room = MOST_ATTEMPTS - sum(link.state == "connecting" for link in self.links.values())
        # Hosts that never failed come first: those that are down wait behind them.
        due.sort(key=lambda link: (link.failures, link.next_attempt))
        for link in due[: max(0, min(room, STARTS_A_TURN))]:
            link.attempt(now)
            if link.fd is not None:
                self.selector.register(link.fd, selectors.EVENT_READ, link)

    def _read(self, link: Link, now: float) -> None:
        before = link.state
        if not link.read(now):
            self._unwatch(link)
            was_new = link.failures == 0
            link.end(now)
            if was_new or before == "up":
                self.log.warning("%s: link down (%s): %s", link.label, link.reason, link.detail)
        elif link.state != before:
            self.log.info("%s: link %s", link.label, link.state)

    def _unwatch(self, link: Link) -> None:
        if link.fd is not None:
            with contextlib.suppress(KeyError):
                self.selector.unregister(link.fd)

    def _expire(self, now: float) -> None:
        """Give back the tasks of dead agents; those of a host that answers count as dead sooner."""
        if now - self._expired < EXPIRE_SECONDS:
            return
        self._expired = now
        try:
            times = leases.times_of(self.settings)
            silence = times[1]
            lost = leases.expire(
                self.scripts,
                *times,
                [label for label, link in self.links.items() if link.would_hear(now, silence)],
            )
            for agent in lost:
                self.log.warning("%s is lost, %d tasks given back", agent.agent, agent.tasks)
                link = self.links.get(agent.agent.rpartition("#")[0])
                if link is not None and link.alive(now):
                    # The new one also ends what is left of its tasks.
                    link.revive()
            self._complained = ""
        except (redis.RedisError, OSError) as error:
            # Valkey may be restarting; said once, not each second.
            if str(error) != self._complained:
                self.log.warning("Valkey: %s", error)
            self._complained = str(error)

    def _publish(self) -> None:
        """Write down the links' states where they have changed: a file here, and a hash for ``inv status``."""
        states = {label: json.dumps(link.facts(), sort_keys=True) for label, link in self.links.items()}
        if states == self._published or self._complained:
            return
        known = self._published or {}
        changed = {label: text for label, text in states.items() if known.get(label) != text}
        gone = sorted(set(known) - set(states))
        try:
            links = {label: json.loads(text) for label, text in states.items()}
            write_json(self.directory / "links.json", {"version": VERSION, "pid": os.getpid(), "links": links})
            with self.valkey.pipeline(transaction=True) as pipe:
                if self._published is None:
                    pipe.delete(self.keys.links)
                if changed:
                    pipe.hset(self.keys.links, mapping=changed)
                if gone:
                    pipe.hdel(self.keys.links, *gone)
                pipe.execute()  # type: ignore[no-untyped-call]  # redis-py has types for a part only
        except (redis.RedisError, OSError):
            # Tried again at the next look.
            return
        self._published = states


def main(arguments: list[str]) -> int:
    """Run the keeper of the folder given."""
    directory = Path(arguments[1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = read_json(directory / "server.json")
    if plan is None:
        return 4
    return Keeper(directory, plan).run()
