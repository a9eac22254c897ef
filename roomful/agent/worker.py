"""The agent's work: claims tasks, runs them, reports. One thread does it; two more talk with the queue (``link``)."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Mapping

from roomful.agent import host
from roomful.agent.attempt import Attempt, Claimed, clean_environment, failed_to_start
from roomful.agent.config import AgentConfig
from roomful.agent.ledger import Ledger
from roomful.agent.link import Events, Exchange, GiveBack, Heartbeat, Membership, Parcel, Want
from roomful.agent.manners import Manners
from roomful.agent.memory_watch import LOOK_SECONDS, MemoryWatch
from roomful.agent.orphans import Orphans
from roomful.agent.report import Report
from roomful.agent.spool import Spool
from roomful.agent.tuning import Tuning

log = logging.getLogger("roomful.agent")

#: Tasks are taken ahead for as long as the queue might keep us waiting, if they end that soon.
AHEAD_SECONDS = 0.25
MOST_AHEAD = 256
#: A task taken ahead that has not started by then is given back.
LONGEST_WAIT_SECONDS = 1.0
#: Out of contact for longer than this, no task is started: the queue may be giving them to others.
SILENT_SECONDS = 15.0
#: The safety net under the wake-ups: an idle agent asks again after this.
ASK_AGAIN_SECONDS = 10.0
#: Reports wait this long for company while there is something to run.
GATHER_SECONDS = 0.02
#: A task's streams are watched from this age on: many tasks have ended by then, and are read once.
YOUNG_SECONDS = 0.02
#: Reports in one parcel; their outputs are at most 128 KiB each.
MOST_REPORTS = 200
TICK_SECONDS = 1.0


class Worker:
    """The event loop. All state is its own thread's; others only write to its mailbox."""

    def __init__(
        self, config: AgentConfig, instance: str, nonce: str, guard_fd: int, about: Mapping[str, Any]
    ) -> None:
        self.config = config
        self._guard_fd = guard_fd
        self._workdir = config.working_directory
        self._cgroup = host.Cgroup.of()
        own = {name: getattr(config, name) for name in ("heartbeat_seconds", "cut_off_grace_seconds")}
        self.tuning = Tuning(config.host, defaults=own)
        cpu_milli = int((config.cpus or host.cpus(self._cgroup)) * 1000)
        memory = config.memory_bytes or host.memory(self._cgroup).total
        self.ledger = Ledger(cpu_milli, memory // (1024 * 1024), config.slots)
        said = dict(about, cpus=cpu_milli / 1000, memory=memory, slots=config.slots or -(-cpu_milli // 1000))
        said["workdir"] = self._workdir
        size = f"{cpu_milli} {memory // (1024 * 1024)}"
        self.member = Membership(config, nonce, instance, said, size)
        self._spool = Spool(str(config.home / "spool"), self.member.keys, self.tuning)
        self._environment = clean_environment()
        self._environment[b"ROOMFUL_HOST"] = os.fsencode(config.host)
        self._environment[b"ROOMFUL_AGENT"] = os.fsencode(instance)
        self._waiting: deque[Claimed] = deque()
        self._running: dict[int, Attempt] = {}
        #: First process gone, survivors being killed.
        self._closing: list[Attempt] = []
        self._streams: dict[int, Any] = {}
        #: Started within YOUNG_SECONDS, oldest first: their streams are not watched yet.
        self._young: deque[Attempt] = deque()
        self._reports: deque[Report] = deque()
        self._give_backs: list[GiveBack] = []
        self._mail: deque[Any] = deque()
        self._orphans = Orphans()
        self._memory = MemoryWatch(self.tuning, self._cgroup)
        self._manners = Manners(self.tuning)
        #: Why no task may start at present; empty: it may.
        self._refusal = ""
        self._under_way: Parcel | None = None
        self._token = 0
        self._dry_until = 0.0
        self._draining = False
        #: Whether we know the live settings.
        self._settled = False
        self._stopping = 0.0
        #: Whether the process that watches over us has died.
        self.guard_lost = False
        self._mean_seconds = 1.0
        self._round_trip = 0.0
        self._next_tick = 0.0
        self._epoll = select.epoll()
        self._pipe, self._pipe_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        events = Events(
            parcel=lambda parcel: self._post("parcel", parcel),
            revoked=lambda ids: self._post("revoked", ids) if ids else None,
            wake=lambda: self._post("wake", None),
            settings=lambda _, draining: self._post("draining", draining),
        )
        self._exchange = Exchange(self.member, events)
        self.heartbeat = Heartbeat(self.member, events, self.tuning, self._state)
        self.heartbeat.chores = self._spool.tidy

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until we are told to stop, and everything is given back."""
        self._prepare()
        self.heartbeat.start()
        self._exchange.start()
        while True:
            for fd, _ in self._epoll.poll(self._patience()):
                self._ready(fd)
            self._reap()
            self._read_mail()
            now = time.monotonic()
            if now >= self._next_tick:
                self._tick(now)
            self._start_waiting(now)
            if self._young:
                self._watch_streams(now)
            self._talk(now)
            if self._stopping and self._all_told(now):
                break
        self.heartbeat.stop()
        self._exchange.stop()
        self._leave()

    def on_registered(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with our name in the queue, whenever that changes."""
        self.member.on_registered = tell

    def _prepare(self) -> None:
        Path(self._workdir).mkdir(parents=True, exist_ok=True)
        Path(self._spool.folder).mkdir(mode=0o700, exist_ok=True)
        signal.set_wakeup_fd(self._pipe_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._mail.append(("stop", None)))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._epoll.register(self._pipe, select.EPOLLIN)
        if self._guard_fd >= 0:
            self._epoll.register(self._guard_fd, select.EPOLLIN | select.EPOLLHUP)

    def _post(self, kind: str, value: Any) -> None:
        self._mail.append((kind, value))
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe_write, b"\0")

    def _patience(self) -> float:
        """Return how long nothing needs us, unless something happens."""
        if self._mail:
            return 0.0
        now = time.monotonic()
        until = self._next_tick
        if self._young:
            until = min(until, self._young[0].started + YOUNG_SECONDS)
        if self._reports and self._under_way is None:
            until = min(until, self._reports[0].ended + GATHER_SECONDS)
        return max(0.0, min(until - now, 0.01) if self._closing else until - now)

    def _tick_by(self, when: float | None) -> None:
        if when is not None:
            self._next_tick = min(self._next_tick, when)

    def _end(self, attempt: Attempt, fate: str, detail: str = "") -> None:
        attempt.end(fate, self.tuning["kill_grace_seconds"], detail)
        self._tick_by(attempt.kill_at)

    def _ready(self, fd: int) -> None:
        if fd == self._pipe:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._pipe, 4096)) == 4096:
                    pass
        elif fd == self._guard_fd:
            self._epoll.unregister(fd)
            log.error("the guard is gone: stopping")
            self.guard_lost = True
            self._mail.append(("stop", None))
        else:
            capture = self._streams.get(fd)
            if capture is not None and not capture.read():
                self._epoll.unregister(fd)
                del self._streams[fd]

    def _read_mail(self) -> None:
        while self._mail:
            kind, value = self._mail.popleft()
            if kind == "parcel":
                self._received(value)
            elif kind == "revoked":
                self._revoke(value)
            elif kind == "draining":
                if self._draining and not value:
                    self._dry_until = 0.0
                # Settings may have changed, and are followed before anything is claimed.
                self._settled, self._next_tick = True, 0.0
                self._draining = value
            elif kind == "wake":
                self._dry_until = 0.0
            elif kind == "stop" and not self._stopping:
                self._stop()

    # -- tasks --------------------------------------------------------------------------------------------------

    def _start_waiting(self, now: float) -> None:
        if not self._waiting or not self.ledger.free_slots or self._stopping or self._refusal:
            return
        if now - self.member.last_contact > SILENT_SECONDS:
            return
        passed: list[Claimed] = []
        while self._waiting and self.ledger.free_slots and len(passed) < 16:
            claimed = self._waiting.popleft()
            slot = self.ledger.take(claimed.needs)
            if slot is None:
                passed.append(claimed)
            else:
                self._start(claimed, slot)
        self._waiting.extendleft(reversed(passed))

    def _start(self, claimed: Claimed, slot: int) -> None:
        try:
            attempt = Attempt(
                claimed, slot, self._environment, self._workdir, self._spool.base(claimed.task_id, claimed.attempt)
            )
        except (OSError, ValueError) as error:
            self.ledger.give(claimed.needs, slot)
            self._reports.append(failed_to_start(claimed, error))
            return
        self._manners.lower(attempt.pid)
        self._running[attempt.pid] = attempt
        self._tick_by(attempt.deadline)
        self._tick_by(attempt.started + LOOK_SECONDS)
        self._young.append(attempt)

    def _watch_streams(self, now: float) -> None:
        """Read along with tasks that are not about to end."""
        while self._young and (self._young[0].ended or now - self._young[0].started >= YOUNG_SECONDS):
            attempt = self._young.popleft()
            if attempt.ended:
                continue
            for capture in (attempt.stdout, attempt.stderr):
                self._streams[capture.fd] = capture
                self._epoll.register(capture.fd, select.EPOLLIN)

    def _reap(self) -> None:
        """Collect children that have ended: tasks' first processes, and orphans of tasks."""
        ended = False
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if info is None:
                break
            attempt = self._running.get(info.si_pid)
            if attempt is None:
                os.waitpid(info.si_pid, 0)
                continue
            # Its pid is still its own, so its group is too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(attempt.pid, signal.SIGKILL)
            _, status, usage = os.wait4(attempt.pid, 0)
            attempt.collected(status, usage)
            del self._running[attempt.pid]
            self._closing.append(attempt)
            ended = True
        if ended or self._closing:
            self._close_ended()

    def _close_ended(self) -> None:
        """Let go of tasks that have ended, once nothing of them is left."""
        survivors = self._orphans.of_ended(self._running, self._closing)
        still: list[Attempt] = []
        for attempt in self._closing:
            if attempt.pid in survivors and time.monotonic() - attempt.ended < 5.0:
                still.append(attempt)
            else:
                self._finish(attempt)
        self._closing = still

    def _finish(self, attempt: Attempt) -> None:
        for capture in (attempt.stdout, attempt.stderr):
            if self._streams.pop(capture.fd, None) is not None:
                self._epoll.unregister(capture.fd)
            capture.drain()
        self.ledger.give(attempt.needs, attempt.slot)
        self._dry_until = 0.0
        more = attempt.ended - attempt.started - self._mean_seconds
        self._mean_seconds += more * (0.1 if more > 0 else 0.5)
        if not attempt.fate and attempt.was_killed and self._memory.kernel_has_killed():
            alone = not self._running and len(self._closing) <= 1
            verdict = self._memory.verdict_on_killed(attempt, alone)
            attempt.fate, attempt.detail, attempt.memory_mib = verdict.fate, verdict.detail, verdict.need_mib
        if attempt.fate == "revoked":
            attempt.discard()
            self._let_go(attempt.task_id, attempt.number)
        elif attempt.fate in ("stopped", "evicted"):
            attempt.discard()
            task = (attempt.task_id, attempt.number, attempt.memory_mib)
            self._give_backs.append(GiveBack(attempt.fate, attempt.detail, [task]))
        else:
            self._reports.append(attempt.report())

    def _revoke(self, lost: list[tuple[int, int]]) -> None:
        """Drop attempts that the queue has given up, or whose tasks it has given to others."""
        gone = set(lost)
        self._waiting = deque(c for c in self._waiting if (c.task_id, c.attempt) not in gone)
        pending = {(report.task_id, report.attempt) for report in self._reports}
        if self._under_way:
            pending.update((report.task_id, report.attempt) for report in self._under_way.reports)
        ours = [*self._running.values(), *self._closing]
        running = {(attempt.task_id, attempt.number): attempt for attempt in ours}
        for task_id, number in gone:
            attempt = running.get((task_id, number))
            if attempt is not None:
                log.info("task %d, attempt %d is not ours any more: killing it", task_id, number)
                self._end(attempt, "revoked")
            elif (task_id, number) not in pending:
                self._let_go(task_id, number)

    def _let_go(self, task_id: int, number: int) -> None:
        """Stop telling the queue that we hold this attempt; a later one of the same task stays."""
        if self.member.holds.get(task_id) == number:
            del self.member.holds[task_id]

    # -- talking with the queue ---------------------------------------------------------------------------------

    def _talk(self, now: float) -> None:
        if self._under_way is not None or not self.member.agent:
            return
        want = self._want(now)
        if not (self._reports or self._give_backs or want):
            return
        more_to_do = bool(self._waiting) and not want and not self._give_backs and not self._stopping
        if more_to_do and len(self._reports) < MOST_REPORTS and now - self._reports[0].ended < GATHER_SECONDS:
            # The reports wait for company.
            return
        parcel = Parcel(give_backs=self._give_backs, want=want)
        self._give_backs = []
        while self._reports and len(parcel.reports) < MOST_REPORTS:
            parcel.reports.append(self._reports.popleft())
        if want:
            self._token += 1
            parcel.token = self._token
            self.heartbeat.claiming = True
        self._under_way = parcel
        self._exchange.send(parcel)

    def _want(self, now: float) -> Want | None:
        if self._stopping or self._draining or not self._settled or now < self._dry_until:
            return None
        if len(self._reports) > 4 * MOST_REPORTS or self._refusal:
            return None
        wanted = 0
        soon = AHEAD_SECONDS + 4 * self._round_trip
        if self._mean_seconds < soon:
            in_parallel = max(1, len(self._running))
            wanted = min(MOST_AHEAD, int(in_parallel * soon / max(self._mean_seconds, 0.0005)))
        waiting = len(self._waiting)
        slots = self.ledger.free_slots if self.ledger.free_cpu and not waiting else 0
        if not slots and waiting >= wanted / 2:
            return None
        memory = self.ledger.free_memory
        if self._running or self._waiting:
            # One that asks for all that the host has gets it when nothing else runs.
            memory = min(memory, self._memory.free_mib)
        return Want(slots, max(0, wanted - waiting), self.ledger.free_cpu, memory)

    def _received(self, parcel: Parcel) -> None:
        self._under_way = None
        self.heartbeat.claiming = False
        self._round_trip += (parcel.seconds - self._round_trip) * 0.2
        for report in parcel.reports:
            self._let_go(report.task_id, report.attempt)
        for back in parcel.give_backs:
            for task_id, number, _ in back.tasks:
                self._let_go(task_id, number)
        again = {claimed.task_id: claimed.attempt for claimed in parcel.claimed}
        for attempt in [*self._running.values(), *self._closing] if again else ():
            if attempt.number < again.get(attempt.task_id, 0):
                # The queue gave it back, and it has come to us again before a heartbeat told us.
                self._end(attempt, "revoked")
        if parcel.want is None:
            return
        self._waiting.extend(parcel.claimed)
        self._reports.extend(parcel.unreadable)
        if len(parcel.claimed) < parcel.want.slots + parcel.want.ahead and parcel.status != "more":
            self._dry_until = time.monotonic() + ASK_AGAIN_SECONDS

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK_SECONDS
        soon = self._look_at_host(now)
        if self._running:
            self._tick_by(now + soon)
        self.ledger.set_slots(self.config.slots or int(self.tuning["slots"]))
        cut_off = now - self.member.last_contact > self.tuning["cut_off_grace_seconds"]
        for attempt in list(self._running.values()):
            if attempt.kill_at is not None:
                if now >= attempt.kill_at:
                    attempt.kill()
                else:
                    self._tick_by(attempt.kill_at)
            elif attempt.suspended is not None and not cut_off:
                continue
            elif attempt.deadline is not None and now >= attempt.deadline:
                self._end(attempt, "timeout", f"longer than {attempt.spec.timeout:g} s")
            elif cut_off:
                self._end(attempt, "stopped", "the queue was out of reach for too long")
            else:
                self._tick_by(attempt.deadline)
        if self._waiting and now - self._waiting[0].claimed > LONGEST_WAIT_SECONDS and self._under_way is None:
            tasks = [(claimed.task_id, claimed.attempt, 0) for claimed in self._waiting]
            self._give_backs.append(GiveBack("released", "", tasks))
            self._waiting.clear()
            self._mean_seconds = max(self._mean_seconds, 1.0)
        # Also what was overlooked before: the kernel's list may lack some while others end.
        self._orphans.of_ended(self._running, self._closing)

    def _look_at_host(self, now: float) -> float:
        """Follow what the host's memory and its other users leave us; return when to look again, in seconds."""
        soon = self._memory.look(now)
        self._manners.look(now, sum(attempt.needs.cpu_milli for attempt in self._running.values()) / 1000)
        refusal = self._manners.refusal() or self._memory.refusal()
        if self._refusal and not refusal:
            self._dry_until = 0.0
        self._refusal = refusal
        for attempt in self._running.values():
            if self._manners.suspends and not attempt.fate:
                attempt.suspend(now, self._orphans.of(attempt))
            else:
                attempt.resume(now, self._orphans.of(attempt))
        verdict = self._memory.verdict(self._running.values(), self._orphans.of)
        if verdict is not None:
            log.warning("task %d is stopped (%s): %s", verdict.attempt.task_id, verdict.fate, verdict.detail)
            verdict.attempt.end_at_once(verdict.fate, verdict.detail, verdict.need_mib)
        return soon

    def _state(self) -> Mapping[str, Any]:
        """Describe us for the heartbeat; called from its thread."""
        return {
            "load": round(host.load(), 2),
            "memory_free": self._memory.memory.free,
            "running": len(self._running) + len(self._closing),
            "waiting": len(self._waiting),
            "slots": self.config.slots or int(self.tuning["slots"]) or -(-self.ledger.total_cpu // 1000),
            "busy_with": self._refusal,
        }

    # -- the end ------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        log.info("stopping: %d tasks run, %d wait", len(self._running), len(self._waiting))
        self._stopping = time.monotonic()
        if self._waiting:
            tasks = [(claimed.task_id, claimed.attempt, 0) for claimed in self._waiting]
            self._give_backs.append(GiveBack("released", "", tasks))
            self._waiting.clear()
        for attempt in self._running.values():
            self._end(attempt, "stopped", "the agent was told to stop")

    def _all_told(self, now: float) -> bool:
        if self._running or self._closing:
            return False
        told = not (self._under_way or self._reports or self._give_backs)
        # A queue that is out of reach will find out by itself.
        return told or now - self._stopping > 10.0

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            from roomful.agent.scripts import Scripts

            client = self.member.connect()
            if self.member.agent:
                Scripts(client, self.member.keys.prefix).call("leave", self.member.agent)
            client.connection_pool.disconnect()
        log.info("stopped")
