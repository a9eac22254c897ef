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
from typing import Any, Mapping

from roomful.agent import host
from roomful.agent.appetite import Appetite
from roomful.agent.attempt import Attempt, Claimed, clean_environment, failed_to_start
from roomful.agent.attempts import Attempts
from roomful.agent.config import AgentConfig
from roomful.agent.host_lock import HostLock
from roomful.agent.ledger import Ledger
from roomful.agent.link import Events, Exchange, Heartbeat, Membership, Parcel, Want
from roomful.agent.mailbox import Mailbox, children_fd
from roomful.agent.manners import Manners
from roomful.agent.memory_watch import LOOK_SECONDS, MemoryWatch
from roomful.agent.outbox import Outbox
from roomful.agent.shortage import Shortage
from roomful.agent.spool import Spool
from roomful.agent.task import TaskClass
from roomful.agent.tuning import Tuning

log = logging.getLogger("roomful.agent")

#: A task taken ahead that has not started by then is given back.
LONGEST_WAIT_SECONDS = 1.0
#: Out of contact for longer than this, no task is started: the queue may be giving them to others.
SILENT_SECONDS = 15.0
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
        slots = config.slots or -(-cpu_milli // 1000)
        said = dict(about, cpus=cpu_milli / 1000, memory=memory, slots=slots, workdir=self._workdir)
        size = f"{cpu_milli} {memory // (1024 * 1024)}"
        self.member = Membership(config, nonce, instance, said, size)
        self._spool = Spool(str(config.home / "spool"), self.member.keys, self.tuning)
        environment = clean_environment()
        environment[b"ROOMFUL_HOST"] = os.fsencode(config.host)
        environment[b"ROOMFUL_AGENT"] = os.fsencode(instance)
        self._epoll = select.epoll()
        self._attempts = Attempts(environment, self._workdir, self._spool, self._epoll)
        #: Claimed, and not started yet.
        self._waiting: deque[Claimed] = deque()
        self._appetite = Appetite()
        self._mail, self._children = Mailbox(), -1
        self._memory = MemoryWatch(self.tuning, self._cgroup)
        self._manners = Manners(self.tuning)
        self._shortage = Shortage(self._workdir)
        self._host_lock = HostLock(config.host_lock)
        #: Why no task may start at present; empty: it may.
        self._refusal = ""
        self._draining = False
        #: Whether we know the live settings.
        self._settled = False
        self._stopping = 0.0
        #: Whether the process that watches over us has died.
        self.guard_lost = False
        self._next_tick = 0.0
        events = Events(
            parcel=lambda parcel: self._mail.post("parcel", parcel),
            revoked=lambda ids: self._mail.post("revoked", ids) if ids else None,
            wake=lambda: self._mail.post("wake"),
            settings=lambda _, draining: self._mail.post("draining", draining),
        )
        self._exchange = Exchange(self.member, events)
        self._outbox = Outbox()
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
            self._collect()
            self._read_mail()
            now = time.monotonic()
            if now >= self._next_tick:
                self._tick(now)
            self._start_waiting(now)
            self._attempts.watch_streams(now)
            self._talk(now)
            asking = self.heartbeat.claiming and now - self.member.last_contact < SILENT_SECONDS
            if not (self._attempts or self._waiting or asking):
                self._host_lock.release()
            if self._stopping and self._all_told(now):
                break
        self.heartbeat.stop()
        self._exchange.stop()
        self._leave()

    def _prepare(self) -> None:
        Path(self._workdir).mkdir(parents=True, exist_ok=True)
        Path(self._spool.folder).mkdir(mode=0o700, exist_ok=True)
        self._mail.wake_on_signals()
        self._children = children_fd()
        if self._children >= 0:
            self._epoll.register(self._children, select.EPOLLIN)
        else:
            signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._mail.drop("stop"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._epoll.register(self._mail.fd, select.EPOLLIN)
        if self._guard_fd >= 0:
            self._epoll.register(self._guard_fd, select.EPOLLIN | select.EPOLLHUP)

    def _patience(self) -> float:
        """Return how long nothing needs us, unless something happens."""
        if self._mail:
            return 0.0
        now = time.monotonic()
        dates = (self._next_tick, self._attempts.next_look, self._outbox.due)
        left = min(date for date in dates if date is not None) - now
        return max(0.0, min(left, 0.01) if self._attempts.closing else left)

    def _tick_by(self, when: float | None) -> None:
        if when is not None:
            self._next_tick = min(self._next_tick, when)

    def _end(self, attempt: Attempt, fate: str, detail: str = "") -> None:
        attempt.end(fate, self.tuning["kill_grace_seconds"], detail)
        self._tick_by(attempt.kill_at)

    def _ready(self, fd: int) -> None:
        if fd == self._mail.fd:
            self._mail.hush()
        elif fd == self._children:
            # What it says is not needed: all children are asked at every turn.
            os.read(fd, 4096)
        elif fd == self._guard_fd:
            self._epoll.unregister(fd)
            log.error("the guard is gone: stopping")
            self.guard_lost = True
            self._mail.drop("stop")
        else:
            self._attempts.read(fd)

    def _read_mail(self) -> None:
        for kind, value in self._mail.take():
            if kind == "parcel":
                self._received(value)
            elif kind == "revoked":
                self._revoke(value)
            elif kind == "draining":
                if self._draining and not value:
                    self._appetite.stir()
                # Settings may have changed, and are followed before anything is claimed.
                self._settled, self._next_tick = True, 0.0
                self._draining = value
            elif kind == "wake":
                self._appetite.stir()
            elif kind == "stop" and not self._stopping:
                self._stop()

    # -- tasks --------------------------------------------------------------------------------------------------

    def _start_waiting(self, now: float) -> None:
        if not self._waiting or not self.ledger.free_slots or self._stopping or self._refusal:
            return
        if now - self.member.last_contact > SILENT_SECONDS or not self._machine_is_ours():
            return
        passed: list[Claimed] = []
        too_large: set[TaskClass] = set()
        while self._waiting and self.ledger.free_slots and len(passed) < 16 and not self._refusal:
            claimed = self._waiting.popleft()
            slot = None if claimed.needs in too_large else self.ledger.take(claimed.needs)
            if slot is None:
                passed.append(claimed)
                too_large.add(claimed.needs)
            else:
                self._start(claimed, slot)
        self._waiting.extendleft(reversed(passed))

    def _start(self, claimed: Claimed, slot: int) -> None:
        try:
            attempt = self._attempts.start(claimed, slot)
        except (OSError, ValueError) as error:
            self.ledger.give(claimed.needs, slot)
            if self._shortage.noticed(error):
                self._refusal = self._shortage.refusal()
                self._outbox.release([claimed])
            else:
                self._outbox.report(failed_to_start(claimed, error))
            return
        self._manners.lower(attempt.pid)
        self._tick_by(attempt.deadline)
        self._tick_by(attempt.started + LOOK_SECONDS)

    def _collect(self) -> None:
        """Let go of what has ended. What waits for its place is started first: the rest is done while that runs."""
        gone = self._attempts.reap()
        if not gone:
            return
        self._shortage.eased()
        for attempt in gone:
            self.ledger.give(attempt.needs, attempt.slot)
            self._appetite.ended(attempt.ended - attempt.started)
            if not attempt.fate and attempt.was_killed:
                self._explain_kill(attempt, alone=len(gone) == 1 and not self._attempts)
        self._start_waiting(time.monotonic())
        for attempt in gone:
            self._finish(attempt)

    def _explain_kill(self, attempt: Attempt, alone: bool) -> None:
        """Find out whether the kernel has killed it for memory."""
        if self._memory.kernel_has_killed():
            verdict = self._memory.verdict_on_killed(attempt, alone)
            attempt.fate, attempt.detail, attempt.memory_mib = verdict.fate, verdict.detail, verdict.need_mib

    def _finish(self, attempt: Attempt) -> None:
        self._attempts.drain(attempt)
        if attempt.fate == "revoked":
            attempt.discard()
            self._let_go(attempt.task_id, attempt.number)
        elif attempt.fate in ("stopped", "evicted"):
            attempt.discard()
            task = (attempt.task_id, attempt.number, attempt.memory_mib)
            self._outbox.give_back(attempt.fate, attempt.detail, [task])
        else:
            self._outbox.report(attempt.report())

    def _revoke(self, lost: list[tuple[int, int]]) -> None:
        """Drop attempts that the queue has given up, or whose tasks it has given to others."""
        gone = set(lost)
        self._waiting = deque(c for c in self._waiting if (c.task_id, c.attempt) not in gone)
        pending = self._outbox.untold()
        running = {(attempt.task_id, attempt.number): attempt for attempt in self._attempts}
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
        if self._outbox.busy or not self.member.agent:
            return
        want = self._want(now)
        parcel = self._outbox.pack(want, may_gather=bool(self._waiting) and not self._stopping, now=now)
        if parcel is not None:
            # Before it is on its way: from here on what we hold is not the whole truth.
            self.heartbeat.claiming = want is not None
            self._exchange.send(parcel)

    def _want(self, now: float) -> Want | None:
        if self._stopping or self._draining or not self._settled or self._refusal or self._outbox.crowded:
            return None
        running, waiting = self._attempts.running, len(self._waiting)
        want = self._appetite.want(now, self.ledger, running, waiting, self._memory.free_mib)
        # The machine is ours before a task is: it would wait here for others' end.
        return want if want is None or self._machine_is_ours() else None

    def _machine_is_ours(self) -> bool:
        """Take the whole machine's lock, if one is agreed upon; no task starts while others have it."""
        refusal = self._host_lock.take()
        self._refusal = refusal or self._refusal
        return not refusal

    def _received(self, parcel: Parcel) -> None:
        self._outbox.delivered()
        self.heartbeat.claiming = False
        for report in parcel.reports:
            self._let_go(report.task_id, report.attempt)
        for back in parcel.give_backs:
            for task_id, number, _ in back.tasks:
                self._let_go(task_id, number)
        again = {claimed.task_id: claimed.attempt for claimed in parcel.claimed}
        for attempt in self._attempts if again else ():
            if attempt.number < again.get(attempt.task_id, 0):
                # The queue gave it back, and it has come to us again before a heartbeat told us.
                self._end(attempt, "revoked")
        self._waiting.extend(parcel.claimed)
        self._outbox.report(*parcel.unreadable)
        self._appetite.answered(parcel, time.monotonic())

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK_SECONDS
        soon = self._look_at_host(now)
        if self._attempts.running:
            self._tick_by(now + soon)
        self.ledger.set_slots(self.config.slots or int(self.tuning["slots"]))
        cut_off = now - self.member.last_contact > self.tuning["cut_off_grace_seconds"]
        for attempt in list(self._attempts.running.values()):
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
        if self._waiting and now - self._waiting[0].claimed > LONGEST_WAIT_SECONDS and not self._outbox.busy:
            self._release_waiting()
            self._appetite.took_too_many()
        self._attempts.sweep()

    def _release_waiting(self) -> None:
        if self._waiting:
            self._outbox.release(self._waiting)
            self._waiting.clear()

    def _look_at_host(self, now: float) -> float:
        """Follow what the host's memory and its other users leave us; return when to look again, in seconds."""
        soon = self._memory.look(now)
        running, orphans = self._attempts.running.values(), self._attempts.orphans
        self._manners.look(now, sum(attempt.needs.cpu_milli for attempt in running) / 1000)
        refusal = self._manners.refusal() or self._memory.refusal() or self._shortage.refusal()
        if self._refusal and not refusal:
            refusal = self._host_lock.holder()
        if self._refusal and not refusal:
            self._appetite.stir()
        self._refusal = refusal
        for attempt in running:
            if self._manners.suspends and not attempt.fate:
                attempt.suspend(now, orphans.of(attempt))
            else:
                attempt.resume(now, orphans.of(attempt))
        verdict = self._memory.verdict(running, orphans.of)
        if verdict is not None:
            log.warning("task %d is stopped (%s): %s", verdict.attempt.task_id, verdict.fate, verdict.detail)
            verdict.attempt.end_at_once(verdict.fate, verdict.detail, verdict.need_mib)
        return soon

    def _state(self) -> Mapping[str, Any]:
        """Describe us for the heartbeat; called from its thread."""
        return {
            "load": round(host.load(), 2),
            "runnable": host.runnable(),
            "memory_free": self._memory.memory.free,
            "running": len(self._attempts),
            "waiting": len(self._waiting),
            "slots": self.config.slots or int(self.tuning["slots"]) or -(-self.ledger.total_cpu // 1000),
            "busy_with": self._refusal,
        }

    # -- the end ------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        log.info("stopping: %d tasks run, %d wait", len(self._attempts.running), len(self._waiting))
        self._stopping = time.monotonic()
        self._release_waiting()
        for attempt in self._attempts.running.values():
            self._end(attempt, "stopped", "the agent was told to stop")

    def _all_told(self, now: float) -> bool:
        if self._attempts:
            return False
        # A queue that is out of reach will find out by itself.
        return self._outbox.empty or now - self._stopping > 10.0

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self.member.leave()
        log.info("stopped")
