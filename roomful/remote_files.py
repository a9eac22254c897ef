"""Single files on hosts, fetched byte for byte: outputs too large for the queue, results that tasks name."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roomful.atomic_file import AtomicFile
from roomful.errors import HostListError, RoomfulError
from roomful.hosts import Host, known_lists, parse_host, read_host_list
from roomful.outcome import HostFailure
from roomful.remote.frames import HEADER, ProtocolError, Unpacker
from roomful.settings import Settings

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: Called with the hosts that are about to be connected to.
BeforeConnecting = Callable[[Iterable[Host]], None]

#: A connection that breaks is noticed at once; a large file may take its time.
TRANSFER_SECONDS = 24 * 3600.0
#: So often a host that sends us files is asked whether it is there; it is lost when it does not answer
#: (``connection.LOST_AFTER_MS``).
KEEPALIVE_SECONDS = 5

_DATA, _END, _ERROR = 1, 2, 3

#: Runs on the host: writes each file that standard input names (NUL-separated) as frames.
_SOURCE = f"""\
import os, stat, struct, sys
def frame(kind, number, data=b""):
    sys.stdout.buffer.write(struct.pack({HEADER.format!r}, kind, number, len(data)) + data)
base = os.fsencode(os.path.expanduser(sys.argv[1]))
for number, name in enumerate(sys.stdin.buffer.read().split(b"\\0")):
    try:
        with open(os.open(os.path.join(base, name), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(0, "not a regular file")
            while True:
                block = file.read(262144)
                if not block:
                    break
                frame({_DATA}, number, block)
        frame({_END}, number)
    except OSError as error:
        frame({_ERROR}, number, (error.strerror or str(error)).encode())
sys.stdout.flush()
"""


@dataclass(frozen=True)
class Wanted:
    """A file on a host, and where it goes here. ``key`` is the caller's own, to recognise it by."""

    key: int
    remote: str
    local: Path
    mtime_ms: int | None = None


@dataclass(frozen=True)
class Fetched:
    """What became of a wanted file; ``error`` is empty if it is there now."""

    wanted: Wanted
    host: str
    error: str = ""
    #: Whether the host could be reached at all.
    reached: bool = True


def fetch(
    wanted: Mapping[str, Sequence[Wanted]],
    settings: Settings,
    *,
    base: str = "",
    before_connecting: BeforeConnecting | None = None,
) -> list[Fetched]:
    """Fetch files from hosts (by label), all hosts at the same time; each file is complete or absent.

    Relative paths start at ``base`` (default: the workdir). A KeyboardInterrupt passes through.
    """
    from roomful.ssh import fan_out

    hosts = {label: host_of_label(label, settings) for label in wanted}
    label_of = {host.label: label for label, host in hosts.items()}
    if before_connecting:
        before_connecting(hosts.values())
    folder = base or settings.workdir

    def work(connection: HostConnection) -> list[Fetched]:
        # A host that loses its power while it sends says nothing any more, and nothing of ours is unanswered.
        connection.transport.set_keepalive(KEEPALIVE_SECONDS)
        label = label_of[connection.entry.label]
        receiver = _Receiver(label, wanted[label])
        try:
            _run(connection, folder, [item.remote for item in wanted[label]], receiver.take)
        except HostFailure as failure:
            receiver.fail(str(failure))
        finally:
            receiver.fail("the host did not send it")
        return receiver.fetched

    fetched: list[Fetched] = []
    outcomes = fan_out(list(hosts.values()), work, settings)
    if any(outcome.reason == "interrupted" for outcome in outcomes):
        raise KeyboardInterrupt
    for outcome in outcomes:
        if outcome.value is not None:
            fetched += outcome.value
        else:
            why = ": ".join(part for part in (outcome.reason, outcome.detail) if part)
            label = label_of[outcome.host.label]
            reached = outcome.status != "unreachable"
            fetched += [Fetched(item, label, why, reached) for item in wanted[label]]
    return fetched


def stream(
    label: str,
    path: str,
    write: Callable[[bytes], object],
    settings: Settings,
    before_connecting: BeforeConnecting | None = None,
) -> None:
    """Hand a file on a host to ``write``, piece by piece.

    Raises RoomfulError when the host or the file is gone.
    """
    from roomful.ssh import connect

    host = host_of_label(label, settings)
    if before_connecting:
        before_connecting([host])
    ended = False

    def take(kind: int, number: int, data: bytes) -> None:
        nonlocal ended
        del number
        if kind == _ERROR:
            raise RoomfulError(f"cannot read {path}", where=label, why=data.decode(errors="replace"))
        ended = ended or kind == _END
        write(data)

    try:
        with connect(host, settings) as connection:
            _run(connection, settings.workdir, [path], take)
    except HostFailure as failure:
        fix = "no other machine has it: try again when the host is up"
        raise RoomfulError(f"cannot fetch {path}", where=label, why=str(failure), fix=fix) from failure
    if not ended:
        raise RoomfulError(f"cannot fetch {path}", where=label, why="the host did not send all of it")


def host_of_label(label: str, settings: Settings) -> Host:
    """Return the host that the project's lists have under this label, else one made of the label alone."""
    for path in known_lists(settings).values():
        try:
            found = next((host for host in read_host_list(path).hosts if host.label == label), None)
        except HostListError:
            continue
        if found:
            return found
    return parse_host(label, "client")


def _run(
    connection: HostConnection, base: str, paths: Sequence[str], take: Callable[[int, int, bytes], None]
) -> None:
    unpacker = Unpacker()

    def on_output(name: str, chunk: bytes) -> None:
        if name == "stdout":
            for frame in unpacker.feed(chunk):
                take(*frame)

    names = b"\0".join(os.fsencode(path) for path in paths)
    try:
        connection.python(_SOURCE, base, stdin=names, timeout=TRANSFER_SECONDS, on_output=on_output)
    except ProtocolError as error:
        raise HostFailure("protocol", str(error)) from error


class _Receiver:
    """Writes one host's files as their frames come; an error here ends that file, not the others."""

    def __init__(self, label: str, wanted: Sequence[Wanted]) -> None:
        self.fetched: list[Fetched] = []
        self._label = label
        self._left = deque(wanted)
        self._file: AtomicFile | None = None
        self._trouble = ""

    def take(self, kind: int, number: int, data: bytes) -> None:
        """Take in one frame."""
        del number  # the host sends the files in the order in which they were asked for
        if not self._left:
            raise ProtocolError("more files than were asked for")
        if kind == _ERROR:
            self._trouble = self._trouble or data.decode(errors="replace")[:500]
        elif not self._trouble:
            try:
                item = self._left[0]
                if self._file is None:
                    self._file = AtomicFile(item.local, item.mtime_ms)
                self._file.write(data)
                if kind == _END:
                    self._file.commit()
            except OSError as error:
                self._trouble = f"cannot write {self._left[0].local}: {error.strerror or error}"
        if kind != _DATA:
            self._finish()

    def fail(self, why: str) -> None:
        """Give up all files that are not complete."""
        while self._left:
            self._trouble = self._trouble or why
            self._finish()

    def _finish(self) -> None:
        if self._trouble and self._file:
            self._file.abort()
        self.fetched.append(Fetched(self._left.popleft(), self._label, self._trouble))
        self._file, self._trouble = None, ""
