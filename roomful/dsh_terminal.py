"""dsh at a terminal: what is typed there, on its way to the command. Only loaded where stdin is one."""

from __future__ import annotations

import os
import select
import signal
from typing import Any


class Terminal:
    """Our terminal's input on its way into a pipe, whose other end the dispatcher reads.

    Only a process of the terminal's session is stopped when it reads in the background, so we read it. We must not
    wait in a read: what poll saw may be read by the shell, whose turn it was, and nobody would hear the dispatcher.
    """

    def __init__(self) -> None:
        self.theirs, self.ours = os.pipe()
        os.set_blocking(self.ours, False)
        try:
            # O_NONBLOCK on descriptor 0 would be everybody's who has this terminal.
            self.typed = os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            self.typed = 0  # it was another user's before su
        # In the background we want an error: stopped, we would not hear that the command has ended.
        self.before = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        self.waiting = b""
        self.refused = False

    def pump(self, sock: Any) -> None:
        """Pass on what is typed until the dispatcher says something."""
        while self.ours >= 0:
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if self.waiting:
                poll.register(self.ours, select.POLLOUT)
            elif not in_background():
                poll.register(self.typed, select.POLLIN)
            ready = dict(poll.poll(200))
            if sock.fileno() in ready:
                return
            if self.typed in ready:
                self.read()
            self.write()

    def read(self) -> None:
        """Take what is typed, if it is still there and for us."""
        try:
            self.waiting = os.read(self.typed, 4096)
        except BlockingIOError:
            return
        except OSError:
            # Refused while the terminal was another's, or there is no terminal any more: then it is refused again.
            if self.refused and not in_background():
                self.close()
            self.refused = True
            return
        self.refused = False
        if not self.waiting:
            self.close()

    def write(self) -> None:
        """Hand over what the command takes."""
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.ours, self.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def leave(self) -> None:
        """Leave the terminal to what we become."""
        if self.typed:
            os.close(self.typed)
        signal.signal(signal.SIGTTIN, self.before)

    def close(self) -> None:
        """Tell the command that its input is at its end."""
        os.close(self.ours)
        self.ours = -1
        self.waiting = b""


def in_background() -> bool:
    """Tell whether our terminal is for others to read now; one that is not our session's is always ours."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False
