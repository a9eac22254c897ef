"""The process above the worker: starts it again when it dies, and leaves nothing of it or its tasks behind."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Mapping, NoReturn

from roomful.agent.config import AgentConfig
from roomful.agent.private import Lock, private_directory, write_atomically, write_json
from roomful.agent.processes import become_subreaper, kill_descendants, send, set_name, sweep

log = logging.getLogger("roomful.agent")

#: Everything below a dead worker is gone within this.
KILL_SECONDS = 5.0
#: A worker that was told to stop and has not after this is killed.
STOP_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 30.0
#: A worker that lived this long is healthy: its next death counts as the first.
HEALTHY_SECONDS = 60.0
#: The worker's loop waits for its other threads this long at most, instead of Python's 5 ms: about eight short tasks.
SWITCH_SECONDS = 0.0001
LOG_BYTES = 4 * 1024 * 1024


class Guard:
    """Watches over one worker at a time; holds the lock that makes this agent the only one in its folder."""

    def __init__(self, config: AgentConfig, config_path: Path, about: Mapping[str, Any]) -> None:
        self._config = config
        self._config_path = config_path
        self._about = about
        self._lock = Lock(config.home / "lock")
        self._folder = -1
        self._worker = 0
        self._stopping = False

    def acquire(self) -> bool:
        """Take the folder; False if another agent has it."""
        home = private_directory(self._config.home)
        if not self._lock.acquire():
            return False
        # systemd-tmpfiles removes from /tmp what nobody touched for 10 days, but not what somebody has locked.
        self._folder = os.open(str(home), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(self._folder, fcntl.LOCK_SH)
        return True

    def run(self) -> int:
        """Watch until the worker has stopped as told; return the exit code."""
        set_name("roomful-guard")
        if not become_subreaper():
            log.warning("no subreaper on this system: only process groups can be cleaned up")
        instance = self._instance()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        left = sweep("ROOMFUL_AGENT", instance, KILL_SECONDS)
        if left:
            log.warning("killed %d processes that an earlier agent had left", left)
        pause = 0.0
        while not self._told_to_stop():
            started = time.monotonic()
            status = self._watch(instance)
            stuck = kill_descendants(KILL_SECONDS)
            if stuck:
                log.error("cannot kill: %s", stuck)
            if status == 0 or self._told_to_stop():
                break
            healthy = time.monotonic() - started > HEALTHY_SECONDS
            pause = 0.0 if healthy else min(LONGEST_PAUSE_SECONDS, pause * 2 + 0.2)
            log.error("the worker died (status %d); starting it again in %.1f s", status, pause)
            deadline = time.monotonic() + pause
            while not self._told_to_stop() and time.monotonic() < deadline:
                time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):
            (self._config.home / "status.json").unlink()
        log.info("the guard ends")
        return 0

    def _watch(self, instance: str) -> int:
        """Start a worker and wait for its end; return 0 if it stopped as told, else its wait status."""
        reading, writing = os.pipe()
        self._trim_log()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            _work(self._config, self._config_path, instance, reading, self._about)
        os.close(reading)
        self._worker = pid
        if self._stopping:
            os.kill(pid, signal.SIGTERM)
        status = -1
        while status < 0:
            found, ended = os.waitpid(-1, 0)
            if found == pid:
                status = ended
        self._worker = 0
        os.close(writing)
        return status

    def _told_to_stop(self) -> bool:
        return self._stopping

    def _stop(self, *_: Any) -> None:
        """Pass the wish to stop on; the second time, or after a while, with force."""
        if self._worker:
            send(self._worker, signal.SIGKILL if self._stopping else signal.SIGTERM)
            send(self._worker, signal.SIGCONT)
        if not self._stopping:
            signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
        self._stopping = True

    def _instance(self) -> str:
        """Return the random name of this folder, made when the first agent started here."""
        path = self._config.home / "instance"
        try:
            name = path.read_text().strip()
        except OSError:
            name = ""
        if not name:
            name = secrets.token_hex(8)
            write_atomically(path, name.encode() + b"\n")
        return name

    def _trim_log(self) -> None:
        path = self._config.home / "agent.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            # Our processes have it open for appending: it is emptied, not moved.
            # On a full disk the old lines make room for new ones.
            with contextlib.suppress(OSError):
                write_atomically(path.with_suffix(".log.1"), path.read_bytes()[-LOG_BYTES:])
            os.truncate(str(path), 0)


def _work(config: AgentConfig, config_path: Path, instance: str, guard_fd: int, about: Mapping[str, Any]) -> NoReturn:
    """Be the worker; never returns."""
    code = 70
    try:
        set_name("roomful-agent")
        become_subreaper()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        threading.excepthook = _end_on_error
        sys.setswitchinterval(SWITCH_SECONDS)
        from roomful.agent import slim

        slim.load_redis()
        from roomful.agent.worker import Worker

        worker = Worker(config, instance, secrets.token_hex(8), guard_fd, about)
        slim.give_back_memory()
        status = config.home / "status.json"
        worker.member.on_registered = lambda agent: write_json(status, {"agent": agent, "pid": os.getpid()})
        worker.run()
        if worker.guard_lost:
            _start_over(config_path)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _end_on_error(problem: Any) -> None:
    """A thread that fails takes the worker with it; the guard starts a new one."""
    traceback.print_exception(problem.exc_type, problem.exc_value, problem.exc_traceback)
    sys.stderr.flush()
    os._exit(70)


def _start_over(config_path: Path) -> None:
    """Become a guard ourselves, because ours was killed."""
    # The worker blocks some, and blocked signals stay so through exec.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(sys.executable, [sys.executable, *program(), "guard", "--config", str(config_path)])


def program() -> list[str]:
    """Return the arguments after ``python3`` that run this program again."""
    if os.path.isfile(sys.argv[0]) and not sys.argv[0].endswith(".py"):
        return [os.path.abspath(sys.argv[0])]
    return ["-m", "roomful.agent"]


def detach(log_path: Path, run: Callable[[], int]) -> int:
    """Run a function in a daemon, with its output in a log; return the daemon's pid."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            return int(pipe.read() or 0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(reading)
    code = 70
    try:
        os.chdir("/")
        os.umask(0o077)
        nothing = os.open(os.devnull, os.O_RDWR)
        out = os.open(str(log_path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for fd, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(fd, target)
        os.write(writing, b"%d" % os.getpid())
        os.close(writing)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
