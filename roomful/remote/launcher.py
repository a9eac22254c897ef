"""The launcher: starts, feeds and kills commands on a host for one controller, over its own stdin and stdout.

One process a connection, one supervisor (`tree`) a command. It ends, and every process of every command with it, when
its stdin ends or has been silent for `SILENCE` seconds: the connection is lost, or the controller is.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import time
from collections import deque
from typing import Callable

from . import frames, tree
from .job import Host, Job
from .load import load

#: Seconds without a frame after which the connection is taken for lost. Everything is gone within 5 s of a cut.
SILENCE = 4.0
#: Most seconds that one look at the clock counts for: time in which this process could not run is no silence.
TICK = 0.25
#: Bytes read or written at a time.
CHUNK = 1 << 16
#: Unsent bytes after which no command's output is read.
MOST_UNSENT = 1 << 20
#: A stream that gave less than this twice within `PAUSE` seconds is left alone for so long: fewer, larger frames.
SMALL, PAUSE = 1 << 13, 0.001

OUTPUTS = {1: frames.OUTPUT, 2: frames.ERRORS}


class Command:
    """One command: its pipes, what it may still send, what waits for its stdin."""

    def __init__(self, number: int, job: Job, supervisor: int, report: int) -> None:
        self.number = number
        self.supervisor = supervisor
        self.report = report
        self.leader = 0
        #: Signals that came before it was known which process they are for.
        self.early: list[int] = []
        self.said = b""
        #: Its end, or that it never began, has been told.
        self.exited = False
        self.feed = job.feed
        self.outputs = {stream: fd for stream, fd in ((1, job.output), (2, job.errors)) if fd >= 0}
        self.allowance = {1: job.allowance[0], 2: job.allowance[1]}
        self.waiting: deque[bytes] = deque()
        self.closing = False
        self.last_read = {1: 0.0, 2: 0.0}


class Launcher:
    """Serve one controller until its connection ends."""

    def __init__(self) -> None:
        self.host = Host()
        self.commands: dict[int, Command] = {}
        self.unpacker = frames.Unpacker()
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.unsent = bytearray()
        #: Streams that are left alone until a moment, and those that wait until what is unsent has gone.
        self.paused: deque[tuple[float, Command, int]] = deque()
        self.held: list[tuple[Command, int]] = []
        self.silent = 0.0
        self.ended = False

    def run(self) -> None:
        """Serve until stdin ends or is silent for too long, then end every process."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, _stop)
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        tree.adopt_orphans()
        gc.freeze()
        try:
            self.send(frames.HELLO, 0, json.dumps(self.host.about()).encode())
            self.watch(0, select.EPOLLIN, self.read_controller)
            looked = time.monotonic()
            while not self.ended and self.silent < SILENCE:
                self.turn()
                now = time.monotonic()
                self.silent += min(now - looked, TICK)
                looked = now
        finally:
            end_all()

    def turn(self) -> None:
        """Send what can be sent, wait for something, and deal with it."""
        self.flush()
        wait = TICK
        if self.paused:
            wait = min(wait, max(0.0, self.paused[0][0] - time.monotonic()))
        for fd, _ in self.epoll.poll(wait):
            handler = self.handlers.get(fd)
            if handler:
                handler()
        while self.paused and self.paused[0][0] <= time.monotonic():
            _, command, stream = self.paused.popleft()
            self.listen(command, stream)

    def watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` when something happens on a descriptor."""
        if fd not in self.handlers:
            self.epoll.register(fd, events)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Leave a descriptor alone."""
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Queue a frame for the controller."""
        self.unsent += frames.pack(kind, number, payload)

    def flush(self) -> None:
        """Write what the connection takes."""
        try:
            while self.unsent:
                del self.unsent[: os.write(1, bytes(self.unsent[:CHUNK]))]
            self.unwatch(1)
        except BlockingIOError:
            self.watch(1, select.EPOLLOUT, self.flush)
        except OSError:
            self.ended = True
        if self.held and len(self.unsent) < MOST_UNSENT // 2:
            held, self.held = self.held, []
            for command, stream in held:
                self.listen(command, stream)

    def read_controller(self) -> None:
        """Take in what the controller sent."""
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        self.silent = 0.0
        for kind, number, payload in self.unpacker.feed(data):
            if kind == frames.PING:
                self.send(frames.PONG, 0)
            elif kind == frames.LOAD:
                self.send(frames.LOADED, 0, json.dumps(measured()).encode())
            elif kind == frames.START:
                self.start(number, payload)
            elif number in self.commands:
                self.obey(self.commands[number], kind, payload)

    def start(self, number: int, payload: bytes) -> None:
        """Start a command under a supervisor of its own."""
        try:
            job = Job(json.loads(payload), self.host)
            report, theirs = os.pipe()
        except (OSError, ValueError, KeyError) as error:
            self.fail(number, f"cannot prepare the command: {error}")
            return
        launcher = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, tree.WATCHED)
        try:
            supervisor = os.fork()
            if supervisor == 0:
                become_supervisor((job.stdin, job.stdout, job.stderr, theirs))
                tree.supervise(job, theirs, launcher)
        except OSError as error:
            job.discard()
            os.close(report)
            self.fail(number, f"cannot fork: {error.strerror}")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, tree.WATCHED)
            os.close(theirs)
        for fd in (job.stdin, job.stdout, job.stderr):
            os.close(fd)
        command = self.commands[number] = Command(number, job, supervisor, report)
        self.watch(report, select.EPOLLIN, lambda: self.read_report(command))
        for stream in command.outputs:
            self.listen(command, stream)

    def fail(self, number: int, reason: str) -> None:
        """Tell that a command does not exist."""
        self.send(frames.FAILED, number, json.dumps({"error": reason}).encode())

    def read_report(self, command: Command) -> None:
        """Take in what a supervisor says; the end of it means that the whole tree is gone."""
        data = os.read(command.report, CHUNK)
        *lines, command.said = (command.said + data).split(b"\n")
        for line in lines:
            word, rest = line.decode("utf-8", "replace").split(" ", 1)
            if word == "S":
                command.leader = int(rest)
                self.send(frames.STARTED, command.number, json.dumps({"pid": command.leader}).encode())
                for number in command.early:
                    tree.signal_group(command.leader, number)
            elif word == "X":
                command.exited = True
                self.send(frames.EXITED, command.number, frames.STATUS.pack(int(rest)))
            else:
                command.exited = True
                self.fail(command.number, rest)
                if word == "G":
                    # What is left may hold the pipes for ever.
                    self.abandon(command)
                    return
        if data:
            return
        self.unwatch(command.report)
        os.close(command.report)
        command.report = -1
        os.waitpid(command.supervisor, 0)
        if not command.exited and not command.leader:
            self.fail(command.number, "what was to start it there was killed")
        elif not command.exited:
            # Somebody killed the supervisor: its tree is ours now, next to the other supervisors.
            tree.kill_descendants({other.supervisor for other in self.commands.values()})
            self.send(frames.EXITED, command.number, frames.STATUS.pack(-signal.SIGKILL))
        for stream in command.outputs:
            # What is left in the pipe may come whether it was allowed or not, so that there is an end.
            command.allowance[stream] += MOST_UNSENT
            self.listen(command, stream)
        self.finish(command)

    def abandon(self, command: Command) -> None:
        """Forget a command whose supervisor has given up; what is left of its tree becomes our child."""
        for fd in (command.report, command.feed, *command.outputs.values()):
            if fd >= 0:
                self.unwatch(fd)
                os.close(fd)
        os.waitpid(command.supervisor, 0)
        command.outputs.clear()
        command.report = command.feed = -1
        del self.commands[command.number]

    def finish(self, command: Command) -> None:
        """Forget a command whose tree is gone and whose output has been read."""
        if command.report < 0 and not command.outputs:
            if command.feed >= 0:
                self.close_feed(command)
            del self.commands[command.number]
            self.send(frames.GONE, command.number)

    def listen(self, command: Command, stream: int) -> None:
        """Read a command's stream when it has something to say."""
        fd = command.outputs.get(stream)
        if fd is not None:
            self.watch(fd, select.EPOLLIN, lambda: self.read_output(command, stream))

    def read_output(self, command: Command, stream: int) -> None:
        """Pass on what a command wrote, as far as the controller wants it."""
        fd = command.outputs[stream]
        room = min(CHUNK, command.allowance[stream])
        if room <= 0 or len(self.unsent) > MOST_UNSENT:
            self.unwatch(fd)
            if room > 0:
                self.held.append((command, stream))
            return
        try:
            data = os.read(fd, room)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal whose other side has been closed
        self.send(OUTPUTS[stream], command.number, data)
        if not data:
            self.unwatch(fd)
            os.close(fd)
            del command.outputs[stream]
            self.finish(command)
            return
        command.allowance[stream] -= len(data)
        now = time.monotonic()
        if len(data) < SMALL and now - command.last_read[stream] < PAUSE:
            self.unwatch(fd)
            self.paused.append((now + PAUSE, command, stream))
        command.last_read[stream] = now

    def obey(self, command: Command, kind: int, payload: bytes) -> None:
        """Do what a frame asks of a command."""
        if kind == frames.INPUT:
            if not payload:
                command.closing = True
            command.waiting.append(payload)
            self.feed(command)
        elif kind == frames.KILL:
            if command.report >= 0:
                os.kill(command.supervisor, signal.SIGTERM)
        elif kind == frames.SIGNAL:
            if not command.leader:
                command.early.append(payload[0])
            elif command.report >= 0:
                tree.signal_group(command.leader, payload[0])
        elif kind == frames.CREDIT:
            stream, more = frames.STREAM_CREDIT.unpack(payload)
            starved = command.allowance[stream] <= 0
            command.allowance[stream] += more
            if starved:
                self.listen(command, stream)

    def feed(self, command: Command) -> None:
        """Write to a command's stdin what it takes."""
        if command.feed < 0:
            command.waiting.clear()
            return
        passed_on = 0
        try:
            while command.waiting:
                data = command.waiting[0]
                count = os.write(command.feed, data) if data else 0
                passed_on += count
                if count < len(data):
                    command.waiting[0] = data[count:]
                else:
                    command.waiting.popleft()
            self.unwatch(command.feed)
            if command.closing:
                self.close_feed(command)
        except BlockingIOError:
            self.watch(command.feed, select.EPOLLOUT, lambda: self.feed(command))
        except OSError:
            self.close_feed(command)
        if passed_on:
            self.send(frames.CREDIT, command.number, frames.INPUT_CREDIT.pack(passed_on))

    def close_feed(self, command: Command) -> None:
        """Close a command's stdin; the controller may stop sending."""
        self.unwatch(command.feed)
        os.close(command.feed)
        command.feed = -1
        command.waiting.clear()
        self.send(frames.DEAF, command.number)


def measured() -> dict[str, object]:
    """Say how busy this host is, or why that cannot be told."""
    try:
        return load()
    except (OSError, ValueError, IndexError) as error:
        return {"error": str(error)}


def become_supervisor(keep: tuple[int, ...]) -> None:
    """Close what a fork of the launcher must not hold open: the connection, and the other commands' pipes."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    wanted = {0, 1, 2, *keep}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            # The listing's own is closed already.
            with contextlib.suppress(OSError):
                os.close(int(name))


def end_all() -> None:
    """Kill every process below this one and wait for the last."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    begin = time.monotonic()
    while True:
        refused = tree.kill_descendants()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if refused and time.monotonic() - begin > tree.GIVE_UP:
            return
        time.sleep(0.01)


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)
