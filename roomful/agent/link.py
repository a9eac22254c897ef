"""The agent's two connections to the queue, each with a thread of its own, so that the worker never waits for it.

``Exchange`` carries reports out and tasks in. ``Heartbeat`` keeps the lease and hears what has changed. Both
reconnect for ever; every call can be repeated, so a lost reply costs nothing.
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import redis

from roomful.agent.attempt import Claimed
from roomful.agent.config import AgentConfig
from roomful.agent.keys import Keys
from roomful.agent.leases import longest_pause_ms
from roomful.agent.report import Report
from roomful.agent.scripts import Scripts
from roomful.agent.task import TaskClass, decode_task
from roomful.agent.tuning import Tuning

log = logging.getLogger("roomful.agent")

#: A reply that takes longer is given up, and the call repeated over a new connection.
REPLY_SECONDS = 20.0
LONGEST_PAUSE_SECONDS = 2.0
CHORES_SECONDS = 30.0
#: The same complaint is logged no more often than this.
COMPLAIN_SECONDS = 60.0
#: The server's errors that pass by themselves, as far as an agent is concerned.
_PASSING = (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, OSError)


class Want(NamedTuple):
    """What a claim asks for."""

    slots: int
    ahead: int
    cpu_milli: int
    memory_mib: int


class GiveBack(NamedTuple):
    """Tasks that we hold and do not finish: ``released``, ``stopped`` or ``evicted``."""

    how: str
    detail: str
    #: Task id, attempt, and the MiB that an evicted task was seen to need.
    tasks: Sequence[tuple[int, int, int]]

    def lines(self) -> list[str]:
        """Return the arguments of ``requeue.lua``."""
        return [f"{task_id} {attempt} {memory}" for task_id, attempt, memory in self.tasks]


@dataclass
class Parcel:
    """One round trip: what to tell, what to ask for, and then the answers."""

    reports: list[Report] = field(default_factory=list)
    give_backs: list[GiveBack] = field(default_factory=list)
    want: Want | None = None
    token: int = 0
    claimed: list[Claimed] = field(default_factory=list)
    #: What was claimed but cannot be understood, as the failures that it becomes.
    unreadable: list[Report] = field(default_factory=list)
    #: Of the claim: ``ok``, ``more`` or ``draining``.
    status: str = ""
    seconds: float = 0.0


class Membership:
    """Who we are in the queue; shared by the two connections, either of which may find that we must register."""

    def __init__(self, config: AgentConfig, nonce: str, instance: str, about: Mapping[str, Any], size: str) -> None:
        self.config = config
        self.keys = Keys(config.cluster)
        self.agent = ""
        #: Tasks that we hold, with their attempts: claimed, running, or ended and not reported yet.
        self.holds: dict[int, int] = {}
        self.last_contact = time.monotonic()
        self._arguments = (config.host, nonce, instance, json.dumps(about), size)
        self._lock = threading.Lock()
        #: What was logged, and when it may be logged again.
        self._complaints: dict[str, float] = {}
        self._times = 0
        #: Told our name in the queue, whenever that changes.
        self.on_registered: Callable[[str], None] = lambda _: None

    def connect(self) -> redis.Redis:
        """Make a connection that fails rather than retries: its owner decides."""
        return redis.Redis(
            unix_socket_path=self.config.socket,
            username=self.config.username or None,
            password=self.config.password or None,
            socket_timeout=REPLY_SECONDS,
            single_connection_client=False,
        )

    def register(self, scripts: Scripts, times: int) -> list[tuple[int, int]]:
        """Register, unless the other thread did so since ``times``; return the attempts that are no longer ours."""
        with self._lock:
            if times != self._times:
                return []
            held = dict(self.holds)
            reply = scripts.call("register", *self._arguments, _pairs(held))
            self.agent = reply[0].decode()
            self._times += 1
            self.heard()
            log.info("registered as %s", self.agent)
            self.on_registered(self.agent)
            return [(int(task_id), held[int(task_id)]) for task_id in reply[1:]]

    def missed(self, what: str, error: Exception) -> None:
        """Note what a call ended with: a server that cannot write for now is there, and gives our tasks to nobody."""
        text, now = f"{what}: {error}", time.monotonic()
        if now >= self._complaints.get(text, 0.0):
            self._complaints = (
                {**self._complaints, text: now + COMPLAIN_SECONDS} if len(self._complaints) < 20 else {}
            )
            log.warning("%s", text)
        if isinstance(error, redis.exceptions.OutOfMemoryError) or str(error).startswith("MISCONF"):
            self.heard()

    def leave(self) -> None:
        """Give our place in the queue back, and all that it thinks we hold."""
        client = self.connect()
        if self.agent:
            Scripts(client, self.keys.prefix).call("leave", self.agent)
        client.connection_pool.disconnect()

    @property
    def times(self) -> int:
        """How often we have registered."""
        return self._times

    def heard(self) -> None:
        """Note that the queue has answered."""
        self.last_contact = time.monotonic()


class Events(NamedTuple):
    """What the threads tell the worker; each of these may be called from any thread."""

    parcel: Callable[[Parcel], None]
    #: Ids of tasks that are not ours any more.
    revoked: Callable[[list[tuple[int, int]]], None]
    #: Something may have changed: there may be work.
    wake: Callable[[], None]
    #: Live settings, all of them; and whether we are to take nothing new.
    settings: Callable[[Mapping[str, str], bool], None]


class Exchange(threading.Thread):
    """Carries one parcel at a time."""

    def __init__(self, member: Membership, events: Events) -> None:
        super().__init__(name="exchange", daemon=True)
        self._member = member
        self._events = events
        self._parcels: queue.Queue[Parcel | None] = queue.Queue()
        self._client = member.connect()
        self._scripts = Scripts(self._client, member.keys.prefix)
        self._stop = threading.Event()

    def send(self, parcel: Parcel) -> None:
        """Hand a parcel over; it comes back through ``events.parcel``."""
        self._parcels.put(parcel)

    def stop(self) -> None:
        """Give up what cannot be delivered."""
        self._stop.set()
        self._parcels.put(None)

    def run(self) -> None:
        """Deliver until we are stopped."""
        _leave_signals_to_the_worker()
        pause = 0.05
        while not self._stop.is_set():
            parcel = self._parcels.get()
            while parcel is not None and not self._stop.is_set():
                try:
                    started = time.monotonic()
                    if self._deliver(parcel):
                        parcel.seconds = time.monotonic() - started
                        self._member.heard()
                        self._events.parcel(parcel)
                        pause = 0.05
                        break
                except _PASSING as error:
                    self._member.missed("cannot reach the queue", error)
                    self._client.connection_pool.disconnect()
                    self._stop.wait(pause)
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _deliver(self, parcel: Parcel) -> bool:
        """Make the round trip; False if we had to register first."""
        member = self._member
        times = member.times
        calls: list[tuple[str, list[Any]]] = []
        if parcel.reports:
            calls.append(("finish", [report.pack() for report in parcel.reports]))
        calls += [("requeue", [back.how, back.detail, *back.lines()]) for back in parcel.give_backs]
        if parcel.want is not None:
            calls.append(("claim", [parcel.token, *parcel.want]))
        replies = self._scripts.call_all([(name, [member.agent, *arguments]) for name, arguments in calls])
        if any(reply == b"unknown" or reply == [b"unknown"] for reply in replies):
            self._events.revoked(member.register(self._scripts, times))
            return False
        if parcel.want is not None:
            parcel.status = replies[-1][0].decode()
            self._unpack(parcel, replies[-1][1])
        for report, verdict in zip(parcel.reports, replies[0].split() if parcel.reports else ()):
            if verdict == b"late":
                log.warning("task %d: attempt %d came too late", report.task_id, report.attempt)
        return True

    def _unpack(self, parcel: Parcel, tasks: bytes) -> None:
        now = time.monotonic()
        parcel.claimed, parcel.unreadable = [], []
        for task_id, attempt, needs, payload in claimed_tasks(tasks):
            # Before the worker has it, so that no heartbeat in between denies it.
            self._member.holds[task_id] = attempt
            try:
                spec, group = decode_task(payload), TaskClass.parse(needs)
            except (ValueError, TypeError) as error:
                detail = {"reason": "error", "detail": f"cannot be read: {error}"}
                parcel.unreadable.append(Report(task_id, attempt, "failed", now, 0.0, b"", b"", detail))
            else:
                parcel.claimed.append(Claimed(task_id, attempt, spec, group, now))


def claimed_tasks(reply: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Take apart what ``claim.lua`` returns of the tasks: id, attempt, class and payload of each."""
    start = 0
    while start < len(reply):
        line = reply.index(b"\n", start)
        task_id, attempt, needs, length = reply[start:line].split()
        start = line + 1 + int(length)
        yield int(task_id), int(attempt), needs, reply[line + 1 : start]


class Heartbeat(threading.Thread):
    """Says that we are alive, and listens in between."""

    def __init__(
        self, member: Membership, events: Events, tuning: Tuning, state: Callable[[], Mapping[str, Any]]
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._member = member
        self._events = events
        self._tuning = tuning
        self._state = state
        self._version = b""
        self._cursor = b"0-0"
        self._stop = threading.Event()
        #: Whether a claim is under way: then what we hold is not the whole truth.
        self.claiming = False
        self.registered = threading.Event()
        #: What is to be done now and then over a connection that works.
        self.chores: Callable[[redis.Redis], object] = lambda _: None
        self._next_chores = 0.0

    def stop(self) -> None:
        """End after the beat that is under way."""
        self._stop.set()

    def run(self) -> None:
        """Beat until we are stopped."""
        _leave_signals_to_the_worker()
        pause = 0.05
        while not self._stop.is_set():
            client = self._member.connect()
            scripts = Scripts(client, self._member.keys.prefix)
            try:
                while not self._stop.is_set():
                    self._beat(scripts)
                    pause = 0.05
                    if time.monotonic() >= self._next_chores:
                        self.chores(client)
                        self._next_chores = time.monotonic() + CHORES_SECONDS
                    self._listen(client)
            except _PASSING as error:
                self._member.missed("no heartbeat", error)
            finally:
                client.connection_pool.disconnect()
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _beat(self, scripts: Scripts) -> None:
        member = self._member
        times = member.times
        if not member.agent:
            self._events.revoked(member.register(scripts, times))
        state = self._state()
        complete = "0" if self.claiming else "1"
        held = dict(member.holds)
        pause = longest_pause_ms(self._tuning["heartbeat_seconds"])
        words = (member.agent, json.dumps(state), self._version, complete, _pairs(held), pause)
        reply = scripts.call("heartbeat", *words)
        if reply[0] == b"unknown":
            log.warning("the queue had given us up")
            self._events.revoked(member.register(scripts, times))
            return
        member.heard()
        _, draining, waiting, version, settings, lost = reply
        if version != self._version:
            self._version = version
            self._next_chores = 0.0
            pairs = [entry.decode("utf-8", "replace") for entry in settings]
            self._tuning.replace(dict(zip(pairs[::2], pairs[1::2])))
        self._events.settings({}, draining == b"1")
        if lost:
            # By attempt: meanwhile the very same task may have come to us again.
            self._events.revoked([(int(task_id), held[int(task_id)]) for task_id in lost])
        if waiting:
            self._events.wake()
        self.registered.set()

    def _listen(self, client: redis.Redis) -> None:
        """Block until the next beat is due, or until someone wakes us."""
        due = time.monotonic() + self._tuning["heartbeat_seconds"]
        while not self._stop.is_set():
            left = due - time.monotonic()
            if left <= 0:
                return
            block = max(1, int(min(left, 1.0) * 1000))
            reply: Any = client.xread({self._member.keys.wake: self._cursor}, block=block, count=100)
            if reply:
                self._cursor = reply[0][1][-1][0]
                self._events.wake()
                # It may be about us: a cancelled task, a setting. Not more often than this, however often it comes.
                due = min(due, time.monotonic() + 0.1)


def _leave_signals_to_the_worker() -> None:
    """Keep the kernel from waking this thread for each task that ends while the worker starts another."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _pairs(held: dict[int, int]) -> str:
    return " ".join(f"{task_id}:{attempt}" for task_id, attempt in held.items())
