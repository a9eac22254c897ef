"""rsync to and from a host: pushes go through patchwork, pulls have the same options in a command line of our own.

The control connection is Fabric's; rsync opens a second one with the OpenSSH client, with the options of openssh.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roomful._compat import patchwork_transfers
from roomful.errors import MissingProgram
from roomful.growth import INCOMING, LIST, OUT_FORMAT, PARTIAL, Growth
from roomful.hosts import Host
from roomful.openssh import namespace_prefix, rsync_ssh_options
from roomful.outcome import HostFailure
from roomful.settings import Settings

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: Most rsync processes on this machine at the same time; each has an ssh beside it.
MOST_PROCESSES = 16
#: A process that was told to end gets this long to do so.
STOP_SECONDS = 2.0
#: A transfer on which nothing has moved for this long is given up.
SILENCE_SECONDS = 60
#: What makes rsync say how many bytes are through, each time at once.
PROGRESS = ("--info=progress2", "--outbuf=N")
#: Pauses before another try where the SSH server turns away new connections (MaxStartups), in seconds.
TURNED_AWAY_PAUSES = (0.5, 1.5, 4.0)
_TURNED_AWAY = re.compile(r"kex_exchange_identification|Connection (closed|reset) by (remote host|.* port)")

#: Our reason for rsync's exit code where it could not write; it does not always say why.
WRITE_FAILED = "exit 11"
#: rsync's exit code where files disappeared while it read them.
_VANISHED = 24

#: What ssh, rsync and the system say, and our reason for it. rsync's own "Permission denied (13)" is about a file.
_WORDS = (
    (r"No space left on device", "disk-full"),
    (r"Disk quota exceeded", "quota"),
    (r"Host key verification failed", "host-key"),
    (r"Permission denied \([a-z]", "auth"),
    (r"Connection refused", "refused"),
    (r"No route to host", "no-route"),
    (r"Could not resolve hostname", "dns"),
    (r"Connection timed out", "timeout"),
)


@dataclass(frozen=True)
class Transferred:
    """What one rsync moved, in bytes over the wire, and how many files it had to send."""

    bytes_sent: int
    bytes_received: int
    files: int

    def __add__(self, other: Transferred) -> Transferred:
        received = self.bytes_received + other.bytes_received
        return Transferred(self.bytes_sent + other.bytes_sent, received, self.files + other.files)


@dataclass(frozen=True)
class _Local:
    """What patchwork needs of a connection: words for a shell's command line, and a way to run it.

    ``host`` is the name in the host list, not the address behind it, because ssh_config goes by that name.
    """

    user: str
    host: str
    port: int
    local: Callable[[str], Any]
    # The keys are named in the ssh options, as for every other connection.
    connect_kwargs: dict[str, Any] = field(default_factory=dict)


class Rsync:
    """rsync processes of one step, bounded in number, and ended with it.

    Use it as a context manager: at its end, also after an interrupt, no process of it is left.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises MissingProgram where rsync or patchwork is not installed."""
        if shutil.which("rsync") is None:
            raise MissingProgram("rsync", "apt-get install rsync")
        self._transfers = patchwork_transfers()
        self._settings = settings
        self._slots = threading.BoundedSemaphore(MOST_PROCESSES)
        self._running: set[Any] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Rsync:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes, and let none start."""
        deadline = time.monotonic() + STOP_SECONDS
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()
        # The threads that started them wait for them; here it is only seen to that they end.
        while time.monotonic() < deadline and self._running:
            time.sleep(0.01)
        with self._lock:
            for process in self._running:
                process.kill()

    def push(
        self,
        connection: HostConnection,
        source: bytes,
        target: str,
        options: Sequence[str],
        on_bytes: Callable[[int], None] | None = None,
    ) -> Transferred:
        """Bring files from the folder ``source`` into the folder ``target`` there, as ``push_options`` say.

        ``on_bytes`` gets how many bytes of files are through, now and then. Raises HostFailure.
        """
        endpoint = connection.endpoint
        assert endpoint is not None
        user, host = endpoint.user, connection.entry.name

        def run(command: str) -> Any:
            line = " ".join([*map(shlex.quote, self._prefix(connection.entry)), command])
            options: dict[str, Any] = {"shell": "/bin/sh", "env": _environment(), "warn": True}
            if on_bytes:
                options["watchers"] = [_Meter(on_bytes)]
            promise = connection.local(f"exec {line}", asynchronous=True, **options)
            process = promise.runner.process
            with self._registered(process), process.stdin, process.stdout, process.stderr:
                return promise.join()

        target_words = _Local(shlex.quote(user), shlex.quote(host), endpoint.port, run)

        def attempt() -> tuple[int, str, str]:
            result = self._transfers.rsync(
                target_words,
                source=shlex.quote(f"{os.fsdecode(source)}/"),
                target=shlex.quote(f"{target}/"),
                rsync_opts=shlex.join([*options, *(PROGRESS if on_bytes else ())]),
                ssh_opts=rsync_ssh_options(connection.entry, self._settings),
            )
            return result.exited, result.stdout, result.stderr

        return self._until_let_in(attempt)

    def pull(
        self,
        host: Host,
        source: str,
        target: Path,
        files: Mapping[bytes, int],
        on_bytes: Callable[[int], None] | None = None,
    ) -> Transferred:
        """Bring files from the folder ``source`` there into the folder ``target`` here, which holds INCOMING.

        ``files`` has the size of each, as the host listed them; ``on_bytes`` gets how many bytes came, while they do.
        Raises HostFailure.
        """
        names = target / INCOMING / LIST
        names.write_bytes(b"".join(b"./" + path + b"\0" for path in files))
        argv = [*self._prefix(host), "rsync", *pull_options(names)]
        argv += [f"--rsh=ssh {rsync_ssh_options(host, self._settings)}"]
        argv += [f"{_bracketed(host.name)}:{source}/", f"{target}/"]

        def attempt() -> tuple[int, str, str]:
            with (
                tempfile.TemporaryFile("w+", errors="replace") as errors,
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | _environment(),
                ) as process,
                self._registered(process),
                Growth(process, target, files, on_bytes) as growth,
            ):
                lines = [line for line in process.stdout or () if not growth.hear(line)]
                code = process.wait()
                growth.finish()
                errors.seek(0)
                said = errors.read()
                if growth.failure:
                    raise growth.failure
                if code and re.search(r"File too large|File size limit", said):
                    raise growth.too_large()
                return code, b"".join(lines).decode(errors="replace"), said

        return self._until_let_in(attempt)

    def _until_let_in(self, attempt: Callable[[], tuple[int, str, str]]) -> Transferred:
        for pause in (*TURNED_AWAY_PAUSES, None):
            with self._slots:
                code, stdout, stderr = attempt()
            if code in (0, _VANISHED):
                return transferred(stdout)
            if pause is None or not _TURNED_AWAY.search(stderr):
                break
            time.sleep(pause)
        raise failure(code, stderr)

    def _prefix(self, host: Host) -> list[str]:
        return [*_dying_with_us(), *namespace_prefix(host)]

    @contextlib.contextmanager
    def _registered(self, process: Any) -> Iterator[None]:
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.terminate()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


class _Meter:
    """Reads how far a push is: one of Invoke's watchers, which see all output so far whenever some comes."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes

    def submit(self, stream: str) -> tuple[str, ...]:
        if found := re.findall(r"\r *(\d+) +\d+%", stream[-400:]):
            self._on_bytes(int(found[-1]))
        return ()


def push_options(files: Path, basis: Sequence[str], compare_content: bool = False) -> list[str]:
    """Return what a push of the paths listed in ``files`` has beyond patchwork's own ``-pthrvz``.

    Files that are the same in one of the folders ``basis`` become hard links to those. The same are those with one
    size and time; with ``compare_content`` none is taken for the same unread. The folders are absolute: rsyncs with
    the security fixes of January 2025 (such as Debian 12's 3.2.7) take the blocks of a changed file from a relative
    one wrongly, and then fail with "failed verification" (RsyncProject/rsync issue 928).
    """
    return [
        # The list says exactly what goes; patchwork's -r would take everything in a listed folder.
        *("--no-recursive", "--links", "--from0", f"--files-from={files}"),
        # We must be able to write into and to remove what we made there.
        "--chmod=Du+rwx,Fu+r,ug-s",
        *(f"--link-dest={folder}" for folder in basis),
        # By itself rsync compares whole seconds: an edit within one would not be seen.
        "--ignore-times" if compare_content else "--modify-window=-1",
        *("-s", f"--timeout={SILENCE_SECONDS}"),
        *("--no-verbose", "--no-human-readable", "--stats"),
    ]


def pull_options(files: Path) -> list[str]:
    """Return the options of a pull. No symbolic link is ever made here, so none can lead a file astray."""
    return [
        *("--times", "--compress", "--copy-links", "--from0", f"--files-from={files}"),
        # Tasks that are running remove files of theirs.
        "--ignore-missing-args",
        # Until a file is complete it is elsewhere; what was cut goes on where it stopped.
        *(f"--temp-dir={INCOMING}", f"--partial-dir={PARTIAL}"),
        *("-s", f"--timeout={SILENCE_SECONDS}"),
        *("--stats", f"--out-format={OUT_FORMAT}"),
    ]


def transferred(stdout: str) -> Transferred:
    """Read what ``--stats`` printed."""

    def number(words: str) -> int:
        found = re.search(rf"^{words}: ([\d,.]+)", stdout, re.MULTILINE)
        return int(re.sub(r"\D", "", found[1])) if found else 0

    files = number("Number of regular files transferred") or number("Number of files transferred")
    return Transferred(number("Total bytes sent"), number("Total bytes received"), files)


def failure(code: int, stderr: str) -> HostFailure:
    """Name the reason behind a failed rsync, from its exit code and what it and ssh said."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for words, reason in _WORDS:
        said = next((line for line in lines if re.search(words, line)), None)
        if said:
            return HostFailure(reason, said)
    # The last line is only rsync's number and place in its source; the first says what went wrong.
    detail = next((line for line in lines if not line.startswith("rsync error:")), lines[-1] if lines else "")
    if "is your shell clean" in stderr:
        return HostFailure("noisy-shell", "the login shell there prints something (~/.bashrc), which breaks rsync")
    # As bash, csh, fish and dash say it; rsync may notice the end of the connection (12) before that of the shell.
    unfound = r"[Cc]ommand not found|Unknown command|^(?!rsync:).*\brsync: ([Pp]ermission denied|not found)"
    if re.search(unfound, stderr, re.MULTILINE) or (code in (126, 127) and "rsync" in stderr):
        return HostFailure("no-program", detail)
    if code in (30, 35):
        return HostFailure("lost", f"nothing moved for {SILENCE_SECONDS} s")
    if code == 20 or code < 0 or code in (130, 137, 143):
        return HostFailure("interrupted", detail)
    if code in (10, 12, 255):
        return HostFailure("lost", detail)
    return HostFailure(f"exit {code}", detail)


@functools.cache
def _dying_with_us() -> tuple[str, ...]:
    """Return the command that ties a process to this one, so that nothing goes on when we are killed."""
    if not sys.platform.startswith("linux") or shutil.which("setpriv") is None:
        return ()
    prefix = ("setpriv", "--pdeathsig", "TERM", "--")
    known = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if known.returncode == 0 else ()


def _environment() -> dict[str, str]:
    # Messages and numbers as this module reads them.
    return {"LC_ALL": "C"}


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
