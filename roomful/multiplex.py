"""Any number of commands on one host over one SSH channel: started in a millisecond, killed as whole process trees.

A `HostCommands` sends the launcher (`roomful.remote`) to the host and speaks its frames. That one channel carries all
commands, so sshd's MaxSessions does not limit them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from roomful.login_shell import not_found
from roomful.outcome import HostFailure
from roomful.remote import frames
from roomful.remote_process import STDERR, STDOUT, Launch, Listener, RemoteProcess
from roomful.remote_stream import RemoteStream
from roomful.ssh import HostConnection

MODULES = ("frames", "tree", "host", "load", "visit", "job", "launcher")
#: How long the launcher may take to end every process and itself, in seconds.
CLOSING_SECONDS = 6.0

_LOADER = """\
import sys, types
package = types.ModuleType("roomful_remote")
package.__path__ = []
sys.modules["roomful_remote"] = package
for name, source in {sources!r}:
    module = types.ModuleType("roomful_remote." + name)
    module.__package__ = "roomful_remote"
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.modules["roomful_remote.launcher"].Launcher().run()
"""


@functools.cache
def launcher_source() -> bytes:
    """Return the launcher as one Python program."""
    folder = resources.files("roomful.remote")
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
    return _LOADER.format(sources=sources).encode()


def launcher_argv(length: int) -> list[str]:
    """Return the argv that reads a program of ``length`` bytes from stdin, not a byte more, and runs it."""
    read = f"while len(d)<{length}:d+=os.read(0,{length}-len(d)) or sys.exit(1)"
    return ["python3", "-I", "-S", "-c", f'import os,sys;d=b"";exec("{read}");exec(d)']


class HostCommands:
    """The commands on one host. Make it with an open connection, call `serve` in a thread that lasts as long."""

    def __init__(self, connection: HostConnection) -> None:
        """Start the launcher and wait for its greeting. Raises HostFailure: ``no-python``, ``lost`` ..."""
        source = launcher_source()
        self.label = connection.entry.label
        self._stream = RemoteStream(connection, launcher_argv(len(source)))
        self._unpacker = frames.Unpacker()
        self._numbers = itertools.count(1)
        self._processes: dict[int, RemoteProcess] = {}
        self._lock = threading.Lock()
        self._lost: HostFailure | None = None
        self._heard = time.monotonic()
        #: What machine it is: pid, hostname, kernel, machine, cpu, cpus, python.
        self.about: Mapping[str, Any] = {}
        #: Called with what the host answers to `ask_load`.
        self.on_load: Callable[[Mapping[str, Any]], None] = lambda _: None
        try:
            # Where nobody reads it there is no python3: what ended instead says so by its exit code.
            with contextlib.suppress(HostFailure):
                self._stream.send(source)
            while not self.about:
                self._take(self._receive())
        except BaseException:
            self._stream.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether commands can be started."""
        return self._lost is None

    @property
    def failure(self) -> HostFailure | None:
        """Why it was lost; None while it is alive."""
        return self._lost

    def start(self, launch: Launch, listener: Listener) -> RemoteProcess:
        """Start a command; the listener is told what becomes of it."""
        process = RemoteProcess(next(self._numbers), listener, self._send)
        if not launch.stdout:
            process.without(STDOUT)
        if launch.joined:
            process.without(STDERR)
        document = json.dumps(launch.document()).encode()
        with self._lock:
            lost = self._lost
            if len(document) > frames.LARGEST:
                lost = HostFailure("error", f"a command of {len(document):,} bytes is too long")
            if lost is None:
                self._processes[process.number] = process
        if lost is not None:
            process.lose(lost)
        else:
            self._send(frames.START, process.number, document)
        return process

    def ping(self) -> None:
        """Tell the launcher that the controller lives; never waits."""
        with contextlib.suppress(HostFailure):
            self._stream.try_send(frames.pack(frames.PING))

    def ask_load(self) -> None:
        """Ask how busy the host is; never waits. The answer goes to ``on_load``."""
        with contextlib.suppress(HostFailure):
            self._stream.try_send(frames.pack(frames.LOAD))

    @property
    def silent_seconds(self) -> float:
        """Seconds since the host was last heard of; it answers every ping."""
        return time.monotonic() - self._heard

    def serve(self) -> None:
        """Take in what comes from the host until the connection ends."""
        try:
            while True:
                self._take(self._receive())
        except HostFailure as failure:
            self._lose(failure)
        except frames.ProtocolError as error:
            self._lose(HostFailure("protocol", str(error)))
        finally:
            self._lose(HostFailure("lost", "the connection ended"))
            self._stream.close()

    def close(self) -> None:
        """Ask the launcher to end every command and itself; `serve` returns when that is done."""
        self._stream.end_input()

    def abandon(self, failure: HostFailure | None = None) -> None:
        """Let go of the connection; the launcher ends everything on its own."""
        if failure:
            self._lose(failure)
        self._stream.close()

    def _receive(self) -> bytes:
        data = self._stream.receive()
        self._heard = time.monotonic()
        if data:
            return data
        code, words = self._stream.last_words()
        if code in (126, 127) or not_found("python3", code, words.encode()):
            raise HostFailure("no-python", "python3 (3.8 or newer) is needed there")
        raise HostFailure(
            "lost", f"the launcher ended: {words or f'exit {code}'}" if code > 0 else "the connection broke"
        )

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        # A lost connection is reported once, by `serve`, to every process.
        with contextlib.suppress(HostFailure):
            self._stream.send(frames.pack(kind, number, payload))

    def _take(self, data: bytes) -> None:
        for kind, number, payload in self._unpacker.feed(data):
            if kind == frames.HELLO:
                self.about = _document(payload)
                continue
            if kind == frames.LOADED:
                self.on_load(_document(payload))
                continue
            process = self._processes.get(number)
            if process is None:
                continue
            process.take(kind, payload, _document)
            if kind in (frames.GONE, frames.FAILED):
                with self._lock:
                    self._processes.pop(number, None)

    def _lose(self, failure: HostFailure) -> None:
        with self._lock:
            if self._lost is not None:
                return
            self._lost = failure
            processes, self._processes = list(self._processes.values()), {}
        for process in processes:
            process.lose(failure)


def _document(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except ValueError as error:
        raise frames.ProtocolError(f"not a JSON object: {payload[:40]!r}") from error
    if not isinstance(document, dict):
        raise frames.ProtocolError(f"not a JSON object: {payload[:40]!r}")
    return document
