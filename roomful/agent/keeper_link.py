"""One client's link: an OpenSSH child that forwards the queue's Unix socket to the client and stays alive."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shlex
import subprocess
import time
from typing import Any, Mapping

from roomful.agent.ssh_words import reason_of
from roomful.agent.supervisor import spawn

#: Seconds before the first new attempt, and at most; each is shortened by up to a half, so that hosts spread out.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: A link that was up for this many seconds was a good one: its next attempt comes at once.
GOOD_AFTER = 10.0
#: How often the other side is asked for an answer, and how old an answered question may be to prove it alive.
PING_SECONDS, FRESH_SECONDS = 2.0, 4.5
#: An attempt that has led to nothing by then is given up.
ATTEMPT_SECONDS = 60.0
#: Seconds that a child has to end by itself after its output did.
END_SECONDS = 0.1

#: Runs on the client, in the account's own login shell's ``sh``: whatever that shell is, these characters mean the
#: same in single quotes (no quote, backslash, newline or exclamation mark). sshd has bound the new socket already;
#: the name that agents use changes to it in one step. Then every line that comes is sent back, until the input ends;
#: but ``revive`` starts the agent there again, as the program says that it left for this when it was started.
REMOTE_SCRIPT = (
    "umask 077; d=$1; u=$2; p=$d; "
    'while :; do if [ -L "$p" ]; then o=; elif [ -O "$p" ]; then o=1; else o=; fi; '
    'if [ -z "$o" ]; then echo "$p is not a folder of ours" >&2; exit 93; fi; '
    "case $d in */roomful-*) ;; *) break;; esac; "
    "case ${p##*/} in roomful-*) break;; esac; p=${p%/*}; done; "
    'ln -s "$u" "$d/.$u" && mv -f "$d/.$u" "$d/valkey.sock" || exit 94; '
    'for s in "$d"/link-*.sock; do case $s in "$d/$u") ;; *) rm -f "$s";; esac; done; '
    "echo ready; while read -r l; do case $l in revive) "
    'if [ -O "$d/revive" ]; then sh "$d/revive" < /dev/null > /dev/null 2>&1 & fi;; '
    '*) echo "$l";; esac; done; rm -f "$d/$u"'
)


def valid_record(record: Any) -> bool:
    """Tell whether a client's record has what a link needs."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("ssh"), list)
        and bool(record["ssh"])
        and all(isinstance(word, str) for word in record["ssh"])
        and all(isinstance(record.get(key), str) for key in ("name", "directory", "generation"))
        and not record["name"].startswith("-")
        and re.fullmatch(r"[\w@.+/= -]*", record.get("host_key", "")) is not None
    )


def link_argv(record: Mapping[str, Any], unique: str, valkey_socket: str) -> list[str]:
    """Return the argv of one attempt; ``record`` holds ``ssh`` (argv up to the name), ``name``, ``directory``."""
    directory = str(record["directory"])
    command = shlex.join(["sh", "-c", REMOTE_SCRIPT, "roomful-link", directory, unique])
    return [
        *record["ssh"],
        *("-T", "-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none"),
        *("-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"),
        *("-R", f"{escaped(f'{directory}/{unique}')}:{escaped(valkey_socket)}"),
        "--",
        str(record["name"]),
        command,
    ]


def escaped(path: str) -> str:
    """Escape a path for ``-L`` and ``-R``, where colons separate."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


class Link:
    """The link to one client; all times are of the monotonic clock."""

    def __init__(self, label: str, record: Mapping[str, Any], valkey_socket: str) -> None:
        self.label = label
        self.record = record
        self.valkey_socket = valkey_socket
        self.process: subprocess.Popen[bytes] | None = None
        self.state = "waiting"
        self.reason = ""
        self.detail = ""
        self.failures = 0
        self.next_attempt = 0.0
        self.since = time.monotonic()
        #: When the last question that was answered had been asked.
        self.answered = -1e9
        self._attempted = 0.0
        self._asked = 0.0
        self._unread = b""
        self._words: list[str] = []

    @property
    def fd(self) -> int | None:
        """Where the child's output is read from."""
        return self.process.stdout.fileno() if self.process and self.process.stdout else None

    def alive(self, now: float) -> bool:
        """Tell whether the client's host answers at this moment."""
        return self.state == "up" and now - self.answered < FRESH_SECONDS

    def would_hear(self, now: float, seconds: float) -> bool:
        """Tell whether an agent there that lives has been heard: its host answers, and the link is that old.

        An agent that was cut off for a while comes back a moment after the link does.
        """
        return self.alive(now) and now - self.since >= seconds

    def facts(self) -> dict[str, Any]:
        """Return what others may know about it."""
        return {"state": self.state, "reason": self.reason, "detail": self.detail, "attempts": self.failures}

    def attempt(self, now: float) -> None:
        """Start an OpenSSH child."""
        unique = f"link-{secrets.token_hex(4)}.sock"
        self._unread, self._words = b"", []
        self._attempted = now
        self._enter("connecting", now)
        try:
            self.process = spawn(
                link_argv(self.record, unique, self.valkey_socket),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            self._fail("error", str(error), now)
            return
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def read(self, now: float) -> bool:
        """Take what the child has written; False when it has ended."""
        assert self.fd is not None
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._unread = self._unread[-4096:]
        for raw in lines:
            line = raw.decode(errors="replace").strip()
            if line == "ready":
                self.reason = self.detail = ""
                self._enter("up", now)
                self._ask(now)
            elif self.state == "up" and line.isdigit():
                self.answered = max(self.answered, int(line) / 1000)
            elif line:
                self._words = [*self._words[-9:], line[:300]]
        return True

    def tend(self, now: float) -> None:
        """Ask the other side for an answer when it is time to; give up an attempt that takes too long."""
        if self.state == "up" and now - self._asked >= PING_SECONDS:
            self._ask(now)
        elif self.state == "connecting" and now - self._attempted > ATTEMPT_SECONDS and self.process:
            self._words.append(f"timeout: no link within {ATTEMPT_SECONDS:g} s")
            self.process.kill()

    def end(self, now: float) -> None:
        """Clean up after a child that has ended, and plan the next attempt."""
        code = self._collect(END_SECONDS)
        if self.state == "up" and now - self.since >= GOOD_AFTER:
            self.failures = 0
        reason, detail = reason_of(self._words, code)
        self._fail(reason, detail, now)

    def revive(self) -> None:
        """Have the client start its agent again, which has died with all its processes or does nothing any more."""
        if self.state == "up" and self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self.process.stdin.fileno(), b"revive\n")

    def retry_now(self) -> None:
        """Let the next attempt come at once."""
        self.failures = 0
        self.next_attempt = 0.0

    def stop(self) -> None:
        """Close the child's input, so that the other side cleans up and ends; ``finished`` tells when it has."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self._enter("stopping", time.monotonic())

    def finished(self, number: int | None = None) -> bool:
        """Tell whether a stopped child has ended; if not, send it a signal."""
        if self.process is None:
            return True
        if self.process.poll() is None:
            if number is not None:
                self.process.send_signal(number)
            return False
        self._collect(0.0)
        return True

    def _collect(self, seconds: float) -> int:
        """Wait for the child, by force after ``seconds``, and return its exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            # OpenSSH stays for connections that are still forwarded; they lead nowhere now.
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return process.wait()

    def _ask(self, now: float) -> None:
        self._asked = now
        assert self.process is not None
        assert self.process.stdin is not None
        # A full pipe means that nobody answers; a broken one is met by read().
        with contextlib.suppress(OSError):
            os.write(self.process.stdin.fileno(), b"%d\n" % int(now * 1000))

    def _fail(self, reason: str, detail: str, now: float) -> None:
        self.reason, self.detail = reason, detail
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.failures)
        self.failures = min(self.failures + 1, 20)
        self.next_attempt = now + pause * random.uniform(0.5, 1.0)
        self._enter("down", now)

    def _enter(self, state: str, now: float) -> None:
        self.state = state
        self.since = now
