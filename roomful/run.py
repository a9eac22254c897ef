"""Run a command or a script on many hosts, with nothing left running there when the controller goes away."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roomful.errors import InputError, RoomfulError
from roomful.head_start import HeadStart
from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes, Unheard
from roomful.settings import Settings

if TYPE_CHECKING:
    from roomful.ssh import HostConnection

#: Most bytes of output kept of each host and stream; the rest is counted, and still streamed.
KEPT_BYTES = 16 << 20

# The command takes the place of this shell, which sshd made the leader of a session: forks and programs started here
# are what a fan-out costs a host beyond its login. Beside it, a watcher reads our end of the connection: when that
# closes (Ctrl-C, a killed controller, a cut network), it ends the whole group, politely first, itself last. It is
# nobody's child, for programs that wait for all their children; and when the command has ended by itself, what it
# left running goes on. $1 is the command line ("" where the words are one), $2 the number of bytes of its standard
# input that come first, the other words the command's own.
# One line: with a newline in it, login_shell.py has to start another shell.
WRAPPER = (
    "exec 3<&0 4</dev/null </dev/null; "
    'if [ "$2" -gt 0 ]; then '
    't=$(mktemp) && head -c "$2" <&3 >"$t" && exec 4<"$t" && rm -f "$t" || { rm -f "$t"; exit 125; }; fi; '
    "( (trap '' TERM; exec >/dev/null 2>&1 4<&-; read -r _ <&3; "
    "kill -0 $$ && kill -TERM 0 && sleep 2 && kill -KILL 0) & ); "
    "c=$1; shift 2; "
    '[ -z "$c" ] || set -- sh -c "$c" roomful "$@"; '
    'exec "$@" <&4 3<&- 4<&-'
)

# Some servers do not start a command in a group of its own.
LEADER = 'w=$1; shift; kill -0 -$$ 2>/dev/null || exec setsid sh -c "$w" "$0" "$@"; eval "$w"'

# The script's text comes first over standard input ($1 bytes), then its own input. It is run by its first line's
# interpreter, else by sh, from a file that only this account can read and that is gone afterwards, also where the
# watcher ended it (PIPE: the shell says so to a stderr that nobody reads any more).
SCRIPT_LINE = """\
d=$(mktemp -d) && trap 'rm -rf "$d"' EXIT && trap 'exit 143' TERM PIPE && f="$d/$1" && n=$2 && shift 2 && \
head -c "$n" >"$f" && chmod 700 "$f" && \
case "$(head -c 2 "$f")" in '#!') "$f" "$@";; *) sh "$f" "$@";; esac\
"""

# Detached: the same file, but the script goes on after we leave, with its output in a log beside it.
DETACHED_LINE = """\
d=$(mktemp -d "${TMPDIR:-/tmp}/roomful-script.XXXXXX") && f="$d/$1" && n=$2 && shift 2 && head -c "$n" >"$f" && \
chmod 700 "$f" && case "$(head -c 2 "$f")" in '#!') ;; *) set -- "$f" "$@"; f=sh;; esac && \
{ setsid "$f" "$@" </dev/null >"$d/log" 2>&1 & echo "$! $d/log"; }\
"""


@dataclass(frozen=True)
class Ran:
    """What a command did on one host: its exit code and output (cut at KEPT_BYTES a stream).

    Without an exit code it did not come to its end: the output is what was heard until then.
    """

    exit_code: int | None
    stdout: bytes
    stderr: bytes


#: Before hosts are tried again: one that refuses at once needs some time.
RETRY_PAUSE_SECONDS = 1.0

#: The wrapper's exit code where it could not keep the standard input, for want of room.
NO_ROOM = 125

#: Called with the host, "stdout" or "stderr", and a chunk, from the host's own thread, one call at a time.
OnOutput = Callable[[Host, str, bytes], None]


@dataclass(frozen=True)
class Watch:
    """Who is told of what happens: each chunk of output, each outcome, and hosts that are pending or tried again.

    ``on_interrupt`` is called at Ctrl-C, ``on_retry`` before hosts that could not be reached are tried once more.
    """

    on_output: OnOutput | None = None
    on_outcome: Callable[[Outcome[Ran]], None] | None = None
    on_interrupt: Callable[[Sequence[Host]], None] | None = None
    on_retry: Callable[[Sequence[Host]], None] | None = None


@dataclass(frozen=True)
class Job:
    """What to run: a shell line with its words (or only a command's words), and the bytes on its standard input."""

    line: str
    words: tuple[str, ...] = ()
    stdin: bytes = b""

    @classmethod
    def of_command(cls, words: Sequence[str], stdin: bytes = b"") -> Job:
        """Make a job of command words: one word is a shell line, several are a program and its arguments.

        Raises InputError if there are none.
        """
        if not words:
            fix = "write it after --, such as: inv run --hosts n7 -- uptime"
            raise InputError("no command given", fix=fix)
        if len(words) == 1:
            return cls(words[0], (), stdin)
        return cls("", tuple(words), stdin)

    @classmethod
    def of_script(cls, path: Path, arguments: Sequence[str], stdin: bytes = b"", detach: bool = False) -> Job:
        """Make a job of a script file; raises InputError if it cannot be read."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InputError("cannot read the script", where=str(path), why=error.strerror or str(error)) from error
        if not text.strip():
            raise InputError("the script is empty", where=str(path))
        line = DETACHED_LINE if detach else SCRIPT_LINE
        return cls(line, (path.name, str(len(text)), *arguments), text + stdin)

    def argv(self) -> list[str]:
        """Return what to start on a host: the command, with the watcher beside it that ends it when we go away."""
        return ["sh", "-c", LEADER, "roomful", WRAPPER, self.line, str(len(self.stdin)), *self.words]


NOBODY = Watch()


def run(
    hosts: Sequence[Host],
    job: Job,
    settings: Settings,
    *,
    timeout: float | None = None,
    retries: int = 0,
    watch: Watch = NOBODY,
) -> Outcomes[Ran]:
    """Run a job on every host; hosts that could not be reached are tried ``retries`` times more, where that can help.

    ``timeout`` is seconds for the command alone (default: ``command_timeout_seconds``). A non-zero exit code is the
    failure ``exit N`` and its output is in the outcome's value all the same.
    """
    head_start: HeadStart | None = HeadStart(hosts, settings)
    # Loaded only now: the hosts' servers answer meanwhile.
    from roomful.ssh import HostGroup

    lock = threading.Lock()
    heard: dict[Host, dict[str, list[bytes]]] = {}

    def work(connection: HostConnection) -> Ran:
        kept: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        heard[connection.entry] = kept
        room = dict.fromkeys(kept, KEPT_BYTES)

        def take(stream: str, chunk: bytes) -> None:
            if room[stream] > 0:
                kept[stream].append(chunk[: room[stream]])
                room[stream] -= len(chunk)
            if watch.on_output:
                try:
                    with lock:
                        watch.on_output(connection.entry, stream, chunk)
                except OSError as error:
                    # Our own output's reader has gone, or its disk is full.
                    raise Unheard(error) from error

        done = connection.execute(
            job.argv(), stdin=job.stdin, timeout=timeout, check=False, on_output=take, close_stdin=False
        )
        return Ran(done.exit_code, b"".join(kept["stdout"]), b"".join(kept["stderr"]))

    def judged(outcome: Outcome[Ran]) -> Outcome[Ran]:
        if outcome.value is None and any((said := heard.get(outcome.host, {})).values()):
            # Ended before its time: what it said may tell why.
            return replace(outcome, value=Ran(None, *(b"".join(said[stream]) for stream in ("stdout", "stderr"))))
        code = outcome.value.exit_code if outcome.value else None
        if outcome.value is None or not code:
            return outcome
        reason = f"signal {code - 128}" if 128 < code < 160 else f"exit {code}"
        last = outcome.value.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
        if code == NO_ROOM and "No space left on device" in last[0]:
            reason = "disk-full"
        return Outcome(outcome.host, "failed", reason, last[0], outcome.value, outcome.seconds)

    last: dict[Host, Outcome[Ran]] = {}
    left = tuple(hosts)
    for attempt in range(retries + 1):
        again = attempt < retries

        def report(outcome: Outcome[Ran], again: bool = again) -> None:
            if watch.on_outcome and not (again and _may_pass(outcome)):
                watch.on_outcome(judged(outcome))

        group = HostGroup(left, settings, head_start=head_start)
        head_start = None
        for outcome in group.each(work, report, watch.on_interrupt):
            last[outcome.host] = judged(outcome)
        left = tuple(host for host in left if _may_pass(last[host]))
        if not (again and left) or any(outcome.reason == "interrupted" for outcome in last.values()):
            break
        if watch.on_retry:
            watch.on_retry(left)
        try:
            time.sleep(RETRY_PAUSE_SECONDS)
        except KeyboardInterrupt:
            break
    return Outcomes(last[host] for host in hosts)


def _may_pass(outcome: Outcome[Any]) -> bool:
    """Tell whether a host may be reached the next time; one whose key or answer to ours is no will say it again."""
    return outcome.status == "unreachable" and outcome.reason not in ("host-key", "auth")


def make_folder(folder: Path, hosts: Sequence[Host]) -> None:
    """Make the folder for outputs; raises InputError where it cannot be written to, or two hosts share a file."""
    owners: dict[str, Host] = {}
    for host in hosts:
        other = owners.setdefault(host.key, host)
        if other != host:
            what = f"{other.label} and {host.label} would share {folder / host.key}.out"
            raise InputError(what, where="--outdir", fix="run it on them apart")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise InputError("cannot write into this folder", where=str(folder), why=why) from error


def write_outputs(outcomes: Outcomes[Ran], folder: Path) -> int:
    """Write each host's output to ``folder/HOST.out`` and ``.err``; returns how many hosts were written.

    Raises RoomfulError where that fails, as on a full disk.
    """
    written = 0
    for outcome in outcomes:
        if outcome.value is not None:
            said = {"out": outcome.value.stdout, "err": outcome.value.stderr}
            for ending, data in said.items():
                path = folder / f"{outcome.host.key}.{ending}"
                try:
                    path.write_bytes(data)
                except OSError as error:
                    why = error.strerror or str(error)
                    raise RoomfulError("cannot write this file", where=str(path), why=why) from error
            written += 1
    return written
