"""The process that keeps the server's two programs alive: Valkey, and the keeper of the clients' links.

It holds the folder's lock for as long as it lives and passes it on to Valkey: no two servers ever write the same
data. Its children end with it (``PR_SET_PDEATHSIG``), whatever ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import logging.handlers
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

from roomful.agent.private import Lock, daemon_environment, read_json, write_json
from roomful.agent.valkey import passwords_in, ping, what_was_cut, why_it_ended

VERSION = 1
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: A child that dies again and again is started after 0.2 s, 0.4 s ... up to this many seconds.
LONGEST_PAUSE = 10.0
#: A child that lived this many seconds is healthy: its next death counts as the first.
HEALTHY_AFTER = 60.0
#: Seconds that Valkey has to close its files, and the keeper its links, before they are killed.
SHUTDOWN_SECONDS = 60.0
KEEPER_SECONDS = 5.0
#: Logs are put aside as ``.1`` when they are larger than this.
LOG_BYTES = 4 * 1024 * 1024
#: systemd-tmpfiles removes what nobody touched for 10 days (/tmp) or 30 days (/var/tmp).
TOUCH_SECONDS = 3600.0

#: Loaded before any fork: between fork and exec nothing may be imported.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent ends, and block no signal; runs between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def spawn(argv: Sequence[str], *, keep: Sequence[int] = (), **pipes: Any) -> subprocess.Popen[bytes]:
    """Start a child that ends with this process; ``keep`` are file descriptors that it inherits."""
    parent = os.getpid()
    return subprocess.Popen(
        argv,
        # Safe: neither the supervisor nor the keeper has threads.
        preexec_fn=lambda: die_with_parent(parent),
        pass_fds=tuple(keep),
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, **pipes},
    )


def logger_to(path: Path) -> logging.Logger:
    """Return a logger that writes a file, with one older file beside it."""
    handler = logging.handlers.RotatingFileHandler(str(path), maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(path.stem)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # On a full disk it is the log that has to wait.
    logging.raiseExceptions = False
    return logger


class Child:
    """One program that must always run."""

    def __init__(self, name: str, argv: Sequence[str], keep: Sequence[int] = ()) -> None:
        self.name = name
        self.argv = list(argv)
        self.keep = keep
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.failures = 0
        self.started = 0.0
        self.next_start = 0.0
        self.ended = ""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process else None

    def tend(self, log: logging.Logger) -> bool:
        """Start it if it does not run and its pause is over; returns whether it was started now."""
        now = time.monotonic()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return False
            self.ended = f"signal {-code}" if code < 0 else f"exit {code}"
            self.failures = 1 if now - self.started > HEALTHY_AFTER else self.failures + 1
            pause = min(LONGEST_PAUSE, 0.1 * 2**self.failures)
            self.next_start = now + pause
            self.process = None
            log.warning("%s ended (%s); starting it again in %.1f s", self.name, self.ended, pause)
        if now < self.next_start:
            return False
        self.restarts += bool(self.started)
        self.started = now
        self.process = spawn(self.argv, keep=self.keep)
        log.info("%s started, pid %d", self.name, self.process.pid)
        return True

    def stop(self, seconds: float, log: logging.Logger) -> None:
        """End it in order, or by force when that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        # A stopped process (SIGSTOP) would never see it.
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %g s and is killed", self.name, seconds)
            self.process.kill()
            self.process.wait()
        log.info("%s stopped", self.name)


class Supervisor:
    """Keep Valkey and the keeper alive until a SIGTERM; the folder's ``server.json`` says what to run."""

    def __init__(self, directory: Path, plan: dict[str, Any], lock: Lock) -> None:
        assert lock.fd is not None
        self.directory = directory
        self.plan = plan
        self.password = passwords_in(directory)["controller"]
        self.log = logger_to(directory / "supervisor.log")
        # Valkey itself, or the door to a server of the user's.
        self.valkey = Child("valkey", plan["engine"], keep=(lock.fd,))
        self.keeper = Child("keeper", [*plan["command"], "keeper", str(directory)])
        self.state = "starting"
        self.why = ""
        self.data_fault = False
        self.was_ready = False
        self.started = time.monotonic()
        self.touched = 0.0
        self.log_start = 0

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.log.info("supervisor started, pid %d", os.getpid())
        # systemd-tmpfiles leaves a folder alone while somebody has it locked.
        folder = os.open(str(self.directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(folder, fcntl.LOCK_SH)
        while self._step():
            caught = signal.sigtimedwait(SIGNALS, 1.0 if self.state == "ready" else 0.05)
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
        failed = self.state == "failed"
        if not failed:
            self._publish("stopping")
        self.keeper.stop(KEEPER_SECONDS, self.log)
        self.valkey.stop(SHUTDOWN_SECONDS, self.log)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.plan["socket"])
        if not failed:
            self._publish("stopped")
        self.log.info("supervisor ended")
        return int(failed)

    def _step(self) -> bool:
        """Look after both children; False when there is no sense in going on."""
        if self.valkey.process is None:
            self.log_start = put_aside(self.directory / "valkey.log")
        if self.valkey.tend(self.log):
            protect_from_oom(self.valkey.pid)
            self._publish("starting")
        if self.valkey.process is None:
            self.why, self.data_fault = why_it_ended(self._new_log())
            if not self.was_ready:
                self.log.error("Valkey does not start: %s", self.why)
                self._publish("failed")
                return False
            self._publish("restarting")
            return True
        if self.state != "ready":
            answer = ping(self.plan["socket"], "controller", self.password)
            self.was_ready = self.was_ready or answer == "ready"
            self.why = "" if answer in ("down", "loading") else answer
            if answer == "ready":
                self.why = what_was_cut(self._new_log())
            self.state = answer if answer in ("ready", "loading") else "starting"
        if self.was_ready:
            self.keeper.tend(self.log)
        self._publish(self.state)
        self._touch()
        return True

    def _new_log(self) -> str:
        """What Valkey has written since its last start."""
        try:
            with (self.directory / "valkey.log").open("rb") as file:
                file.seek(self.log_start)
                return file.read(1 << 20).decode(errors="replace")
        except OSError:
            return ""

    def _publish(self, state: str) -> None:
        self.state = state
        document = {
            "version": VERSION,
            "state": state,
            "why": self.why,
            "data_fault": self.data_fault,
            "started_monotonic": self.started,
            "supervisor": os.getpid(),
        }
        for child in (self.valkey, self.keeper):
            document[child.name] = child.pid
            document[f"{child.name}_restarts"] = child.restarts
        if document != getattr(self, "_published", None):
            try:
                write_json(self.directory / "status.json", document)
            except OSError as error:
                # A full disk must not end the supervisor; who asks finds out from Valkey itself.
                self.log.warning("cannot write status.json: %s", error)
                return
            self._published = document

    def _touch(self) -> None:
        now = time.monotonic()
        if now - self.touched < TOUCH_SECONDS:
            return
        self.touched = now
        put_aside(self.directory / "valkey.log")
        for path in self.directory.iterdir():
            with contextlib.suppress(OSError):
                os.utime(path)


def put_aside(log: Path) -> int:
    """Rename a log that has become too large; returns its size afterwards. Valkey opens its log for every line."""
    try:
        size = log.stat().st_size
        if size <= LOG_BYTES:
            return size
        os.replace(log, f"{log}.1")
    except OSError:
        pass
    return 0


def protect_from_oom(pid: int | None) -> None:
    """Ask the kernel to spare the queue when memory runs out; only root may."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("-500", encoding="ascii")


def main(arguments: list[str]) -> int:
    """Start the supervisor of the folder given and return when it has the lock; exit code 3 if another one has it."""
    directory = Path(arguments[1])
    os.chdir(directory)
    os.umask(0o077)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _detached(lambda told: _supervise(directory, told))


def _detached(run: Callable[[Callable[[], None]], int]) -> int:
    """Run a function in a process that is nobody's child; returns 0 when it has said that all is well, else 3."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return 0 if os.read(reading, 1) else 3
    os.close(reading)

    def told() -> None:
        os.write(writing, b"1")
        os.close(writing)

    os._exit(run(told))


def _supervise(directory: Path, told: Callable[[], None]) -> int:
    lock = Lock(directory / "lock")
    # Somebody may be looking at the lock at this very moment.
    if not lock.acquire(wait=2.0):
        return 3
    told()
    os.environ.clear()
    os.environ.update(daemon_environment())
    plan = read_json(directory / "server.json")
    if plan is None:
        return 4
    return Supervisor(directory, plan, lock).run()
