"""One dispatched command: from the choice of a host to the exit code, with its streams and signals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from roomful import dsh
from roomful.errors import InputError
from roomful.outcome import HostFailure
from roomful.remote import visit
from roomful.remote_process import STDERR, STDOUT, Launch, RemoteProcess

from . import folders, sync
from .choice import Limits
from .pool import NoHost, Place, Pool
from .streams import Input, Output, Stream, is_same
from .wire import Client, Request, WireError

#: A command may catch SIGTSTP; one that does not stop by it (the kernel ignores it in a session without a terminal)
#: is stopped after so many seconds.
STOP_SECONDS = 0.05
#: Signals that end what does nothing about them.
ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE))


@dataclass(frozen=True)
class Order:
    """What a dsh asks for, checked."""

    argv: tuple[str, ...]
    #: The folder here, and the same folder there.
    here: str
    cwd: str
    env: dict[str, str | None]
    limits: Limits
    retries: int
    or_local: bool
    sync: bool
    verbose: bool
    stdin: bool
    umask: int | None

    @classmethod
    def of(cls, request: Request) -> Order:
        """Read a request. Raises WireError, InputError."""
        options = request.options
        here = options.get("cwd", "")
        for_rsync = request.flag("rsh")
        if not here.startswith("/") or not any(request.argv[:1]) or (for_rsync and len(request.argv) < 2):
            raise WireError("not a request to run something")
        cwd = "" if for_rsync else folders.mapped(here, options.get("chdir", ""))
        return cls(
            # rsync names the host before the command, as for ssh.
            argv=request.argv[1:] if for_rsync else request.argv,
            here=here,
            cwd=cwd,
            env={**({"PWD": cwd} if cwd.startswith("/") else {}), **request.env},
            limits=Limits(request.number("max-load", float("inf")), on=options.get("on", ""), chosen=for_rsync),
            retries=request.count("retry", 0),
            or_local=request.flag("or-local"),
            sync=request.flag("sync"),
            verbose=request.flag("verbose"),
            stdin=options.get("stdin") != "no",
            umask=request.octal("umask"),
        )


@dataclass(frozen=True)
class House:
    """What all jobs of a dispatcher have in common: its hosts, network filesystems here, and its socket."""

    pool: Pool
    mounts: folders.Mounts
    socket: str
    #: Each dsh that is served holds a place; while rsync runs for it, rsync's own dsh has that.
    room: threading.Semaphore

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Lend our place to somebody whom we wait for."""
        self.room.release()
        try:
            yield
        finally:
            self.room.acquire()


class Job:
    """Runs one order for one client; `run` is its thread."""

    process: RemoteProcess

    def __init__(self, client: Client, order: Order, house: House, fds: list[int]) -> None:
        """Take over the three descriptors."""
        self._client = client
        self._order = order
        self._house = house
        self._pool = house.pool
        flags = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
        self._joined = is_same(fds[1], fds[2])
        stdin, stdout, stderr = (Stream(fd, flag) for fd, flag in zip(fds, flags, strict=True))
        self._input: Input | None = None
        if order.stdin and not stdin.is_null:
            self._input = Input(stdin, keep=order.retries > 0)
        else:
            stdin.close()
        self._outputs = {STDOUT: Output(stdout), STDERR: Output(stderr)}
        for output in self._outputs.values():
            output.on_break = self._nobody_reads
        self._tried: set[str] = set()
        self._place: Place | None = None
        self._over = False
        #: What stops a command for good that has not followed SIGTSTP.
        self._stop: threading.Timer | None = None
        #: The last signal that asked for an end, and the one that ended what a command had left behind.
        self._ending = 0
        self._freed = 0
        self._abandoned = threading.Event()
        #: Held while the command is started: it exists for signals from then on.
        self._starting = threading.Lock()
        self._started = False

    def run(self) -> None:
        """Start the command, and hand on signals until the end. A client that has gone takes the command with it."""
        if self._order.sync:
            # Signals are heard while files travel.
            threading.Thread(target=self._attempt, daemon=True, name="attempt").start()
        else:
            self._attempt()
        while True:
            numbers = self._client.signals()
            if not numbers:
                break
            for number in numbers:
                self._signal(number)
        if not self._over:
            self._abandoned.set()
            for output in self._outputs.values():
                output.abort()
            with self._starting:
                if self._started:
                    self.process.kill()

    @property
    def _given_up(self) -> bool:
        """Whether nobody wants the command any more."""
        return bool(self._ending) or self._abandoned.is_set()

    def _attempt(self) -> None:
        """Choose a host and start the command there; ends the job where that cannot be."""
        order = self._order
        limits = replace(order.limits, avoid=frozenset(self._tried))
        try:
            place = self._pool.take(limits)
        except NoHost as error:
            if order.or_local and not self._tried:
                self._end(None)
            else:
                self._refuse(f"no host for {order.argv[0]}: {error}")
            return
        label = place.host.label
        if order.verbose:
            self._client.say(dsh.NOTE, f"{order.argv[0]} runs on {label}")
        if order.sync:
            try:
                with self._house.lent():
                    sync.push(self._sync_plan(label), lambda: self._given_up)
            except sync.SyncFailure as error:
                self._pool.leave(place)
                self._not_brought(place, f"{label}: cannot bring {order.here} there: {error}")
                return
        about = (folders.folders_of(order.cwd, order.argv), folders.stems_of(order.argv)) if order.cwd else None
        launch = Launch(
            order.argv, order.cwd, order.env, stdin=self._input is not None, joined=self._joined, umask=order.umask,
            visit=about,
        )  # fmt: skip
        process = None
        with self._starting:
            if not self._given_up:
                self._place = place
                process = place.commands.start(launch, self)
                self._started = True
        if process is None:
            self._pool.leave(place)
            self._end(128 + self._ending)
        elif self._input:
            self._input.feed(process)

    def _sync_plan(self, label: str) -> sync.Plan:
        return sync.Plan(label, self._order.here, self._order.cwd, self._house.socket)

    def _signal(self, number: int) -> None:
        if number in ENDING:
            self._ending = number
        with self._starting:
            if not self._started:
                return
        if number in ENDING and self.process.status is not None:
            # It has ended: what it left behind, perhaps in a session of its own, holds its streams.
            self._freed = number
            self.process.kill()
            return
        if number in (signal.SIGTSTP, signal.SIGCONT) and self._stop is not None:
            # It goes on before it was stopped for good: it must not stand still again then.
            self._stop.cancel()
        self.process.signal(number)
        if number == signal.SIGTSTP:
            self._stop = threading.Timer(STOP_SECONDS, self.process.signal, (signal.SIGSTOP,))
            self._stop.start()

    def _nobody_reads(self, error: OSError) -> None:
        """Treat the command as a local one whose output goes nowhere."""
        if error.errno == errno.EPIPE:
            self._signal(signal.SIGPIPE)
        else:
            self.process.kill()

    # --- what the connection's reader says ---

    def started(self, pid: int) -> None:
        """Nothing is to be done."""

    def received(self, stream: int, data: bytes) -> None:
        """Pass on what the command wrote."""
        if data:
            process = self.process
            self._outputs[stream].write(data, lambda count: process.grant(stream, count))

    def ended(self, status: int | None, failure: HostFailure | None) -> None:
        """Pass on its end, or try elsewhere; not in the reader's thread where that takes time."""
        place = self._place
        assert place is not None
        self._pool.leave(place)
        if self._freed:
            status = -self._freed
        if self._abandoned.is_set():
            self._end(0)
        elif failure is not None:
            threading.Thread(target=self._failed, args=(place, failure), daemon=True, name="failed").start()
        elif self._order.sync or self._house.mounts.devices():
            threading.Thread(target=self._bring_back, args=(place, status), daemon=True, name="bring back").start()
        else:
            self._end(_code(status))

    def _bring_back(self, place: Place, status: int | None) -> None:
        order = self._order
        # What ended the command does not keep its results there.
        self._ending = 0
        if order.sync:
            try:
                with self._house.lent():
                    sync.pull(self._sync_plan(place.host.label), lambda: self._given_up)
            except sync.SyncFailure as error:
                self._not_brought(place, f"{place.host.label}: cannot bring the results from there: {error}")
                return
        else:
            stems = set(folders.stems_of(order.argv))
            visit.visit(folders.folders_of(order.here, order.argv), stems, self._house.mounts.devices())
        self._end(_code(status))

    def _not_brought(self, place: Place, why: str) -> None:
        """Try elsewhere where rsync failed because the host was lost."""
        failure = place.commands.failure
        if self._given_up:
            self._end(128 + self._ending)
        elif failure is None:
            self._refuse(why)
        else:
            self._lost(place, failure.detail or failure.reason)

    def _failed(self, place: Place, failure: HostFailure) -> None:
        order, label = self._order, place.host.label
        detail = failure.detail or failure.reason
        if failure.reason == "error":
            # It never started: its folder is missing, or its program.
            if order.cwd and detail.startswith(f"{order.cwd}: "):
                fix = "--chdir FROM=TO says what it is called there, --sync brings it there"
                self._refuse(f"{label}: the folder {detail}; {fix}")
            else:
                code = 126 if detail.endswith("Permission denied") else 127
                self._refuse(f"{label}: {detail}", code if detail.startswith(f"{order.argv[0]}: ") else None)
            return
        self._lost(place, detail)

    def _lost(self, place: Place, detail: str) -> None:
        """Try elsewhere, if that was asked for."""
        order, label = self._order, place.host.label
        self._tried.add(label)
        what = f"{label} was lost while {order.argv[0]} ran: {detail}"
        if self._ending:
            # Perhaps because this host did not answer: nobody waits for another.
            self._refuse(what, 128 + self._ending)
        elif len(self._tried) > order.retries:
            self._refuse(what if order.retries else f"{what}; --retry N runs it again elsewhere")
        elif self._input and not self._input.repeatable:
            self._refuse(f"{what}; it cannot be run again: too much of its input has been read")
        else:
            self._client.say(dsh.NOTE, f"{what}; trying again elsewhere")
            with self._starting:
                self._place, self._started = None, False
            self._attempt()

    # --- the end ---

    def _refuse(self, text: str, code: int | None = None) -> None:
        self._client.say(dsh.ERROR, text)
        self._end(dsh.OWN_FAILURE if code is None else code)

    def _end(self, code: int | None) -> None:
        """Close the streams, then tell the client its exit code (None: run it yourself)."""
        if self._input:
            self._input.stop()

        def tell() -> None:
            self._over = True
            for output in self._outputs.values():
                if output.error and output.error.errno != errno.EPIPE:
                    self._client.say(dsh.ERROR, f"cannot write the command's output: {output.error.strerror}")
                    self._client.finish(dsh.OWN_FAILURE)
                    return
            if code is None:
                self._client.say(dsh.LOCAL)
                self._client.hang_up()
            else:
                self._client.finish(code)

        # A reader of our client's output must see its end when the client ends.
        self._outputs[STDOUT].finish(lambda: self._outputs[STDERR].finish(tell))


def _code(status: int | None) -> int:
    """Return an exit code as a shell gives it."""
    status = status or 0
    return status & 0xFF if status >= 0 else 128 - status


def checked(request: Request) -> Order:
    """Return the order in a request; raises WireError with a sentence for whatever is wrong with it."""
    try:
        return Order.of(request)
    except InputError as error:
        raise WireError(str(error)) from error
