"""A dsh's own stdin, stdout and stderr, as the dispatcher reads and writes them.

Their descriptors are shared with whoever else holds them: O_NONBLOCK must not be set on them, and nothing may be read
that nobody asked for. A pipe is opened anew through /proc, which gives us a description of our own to make
non-blocking; a socket has MSG_DONTWAIT; a file never waits.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable

from roomful.remote_process import RemoteProcess

#: Bytes read or written at a time.
CHUNK = 1 << 16
#: Bytes of stdin that are kept, so that another host can have them again.
MOST_KEPT = 1 << 20
#: Where a pipe cannot be opened anew: no more than this is certain not to wait once poll says that there is room.
CAREFUL = 4096


class Stream:
    """One descriptor that is ours to close, read and written without waiting."""

    def __init__(self, fd: int, flags: int) -> None:
        self.fd = fd
        self.sock: socket.socket | None = None
        self.careful = False
        mode = os.fstat(fd).st_mode
        self.is_file = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        if stat.S_ISSOCK(mode):
            self.sock = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
            try:
                own = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                os.close(fd)
                self.fd = own
            except OSError:
                self.careful = True

    @property
    def is_null(self) -> bool:
        """Whether it is /dev/null."""
        info = os.fstat(self.fd)
        return stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3)

    def read(self) -> bytes:
        """Read what is there; raises BlockingIOError where there is nothing yet."""
        if self.sock is not None:
            return self.sock.recv(CHUNK, socket.MSG_DONTWAIT)
        return os.read(self.fd, CHUNK)

    def write(self, data: bytes | memoryview) -> int:
        """Write what it takes; raises BlockingIOError where it takes nothing now."""
        if self.sock is not None:
            return self.sock.send(data, socket.MSG_DONTWAIT)
        if self.careful:
            if not self.wait(select.POLLOUT, 0):
                raise BlockingIOError
            data = data[:CAREFUL]
        return os.write(self.fd, data)

    def wait(self, event: int, milliseconds: int) -> bool:
        """Wait until it can be read or written, or somebody has to know that it cannot."""
        poll = select.poll()
        poll.register(self.fd, event)
        return bool(poll.poll(milliseconds))

    def close(self) -> None:
        """Let go of it; only once."""
        if self.sock is not None:
            self.sock.close()
        os.close(self.fd)


def is_same(first: int, second: int) -> bool:
    """Whether two descriptors lead to the same file, pipe, socket or terminal."""
    one, other = os.fstat(first), os.fstat(second)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


class Input:
    """Feeds a dsh's stdin to a remote process, as fast as that takes it; the next process may have it again."""

    def __init__(self, stream: Stream, keep: bool) -> None:
        self._stream = stream
        self._keep = keep
        self._kept = b""
        self._stop_reading, self._wake = os.pipe()
        self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def repeatable(self) -> bool:
        """Whether everything that was read is still at hand."""
        return self._keep

    def feed(self, process: RemoteProcess) -> None:
        """Begin to feed a process, from the beginning."""
        if self._thread is not None:
            # It fed the process that is lost.
            self._thread.join()
        self._thread = threading.Thread(target=self._run, args=(process,), daemon=True, name="stdin")
        self._thread.start()

    def stop(self) -> None:
        """Read no more, from now on; the descriptor is closed soon."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            os.write(self._wake, b".")
            if self._thread is None:
                self._close()

    def _run(self, process: RemoteProcess) -> None:
        try:
            going = not self._kept or process.write(self._kept)
            while going and not process.ended.is_set():
                data = self._read(process)
                if data is None:
                    break
                if self._keep:
                    self._kept += data
                    if len(self._kept) > MOST_KEPT:
                        self._keep, self._kept = False, b""
                if not data:
                    process.close_stdin()
                    break
                going = process.write(data)
        finally:
            with self._lock:
                if self._stopped:
                    self._close()
                else:
                    self._thread = None

    def _read(self, process: RemoteProcess) -> bytes | None:
        """Wait for bytes; none: the end; None: nobody wants any."""
        while True:
            if not self._stream.is_file:
                poll = select.poll()
                poll.register(self._stream.fd, select.POLLIN)
                poll.register(self._stop_reading, select.POLLIN)
                poll.poll(1000)
            with self._lock:
                if self._stopped or process.ended.is_set():
                    return None
                try:
                    if self._stream.careful and not self._stream.wait(select.POLLIN, 0):
                        continue
                    return self._stream.read()
                except BlockingIOError:
                    continue
                except OSError:
                    return b""

    def _close(self) -> None:
        if self._wake >= 0:
            self._stream.close()
            os.close(self._stop_reading)
            os.close(self._wake)
            self._wake = -1


class Output:
    """Takes what a remote process writes and brings it to a dsh's stdout or stderr; never makes the giver wait."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: deque[tuple[memoryview, Callable[[int], None]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._finished: Callable[[], None] | None = None
        self._closed = False
        self._broken = False
        #: What kept us from writing everything.
        self.error: OSError | None = None
        #: Called once when nobody reads any more, or nothing can be written.
        self.on_break: Callable[[OSError], None] = lambda _: None

    def write(self, data: bytes, written: Callable[[int], None]) -> None:
        """Write, now or later; ``written`` is told the number of bytes that have been dealt with."""
        with self._lock:
            if self._thread is not None:
                self._waiting.append((memoryview(data), written))
                return
            rest = self._push(memoryview(data))
            if rest:
                self._waiting.append((rest, written))
                self._thread = threading.Thread(target=self._run, daemon=True, name="output")
                self._thread.start()
        if len(rest) < len(data):
            written(len(data) - len(rest))

    def finish(self, then: Callable[[], None]) -> None:
        """Close the stream when all has been written, then call ``then``, maybe at once."""
        with self._lock:
            if self._thread is not None:
                self._finished = then
                return
            self._close()
        then()

    def abort(self) -> None:
        """Write no more: nobody is left who wants it."""
        self._broken = True

    def _push(self, data: memoryview) -> memoryview:
        """Write what can be written without waiting and return the rest."""
        while data and not self._broken and not self._closed:
            try:
                data = data[self._stream.write(data[:CHUNK]) :]
            except BlockingIOError:
                return data
            except OSError as error:
                self._broken, self.error = True, error
                # Not from here: it sends to the host, and the lock is held.
                threading.Thread(target=self.on_break, args=(error,), daemon=True).start()
        return data[:0]

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    if self._finished:
                        self._close()
                    break
                data, written = self._waiting[0]
            self._stream.wait(select.POLLOUT, 200)
            rest = self._push(data)
            with self._lock:
                if rest:
                    self._waiting[0] = (rest, written)
                else:
                    self._waiting.popleft()
            if len(rest) < len(data):
                written(len(data) - len(rest))
        if self._finished:
            self._finished()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.close()
