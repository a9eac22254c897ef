"""Examine hosts: everything that would stop a run there, each with a name, and none waited for beyond its deadline.

A host is examined in stages: name, port, host key and login by the fan-out itself; then what the login shell says,
what the home is like, and what the machine is, each a command of its own with its own deadline. A home on a dead file
server makes its own stage fail, and no other. Whoever shares a home sees the others' marks in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from importlib import resources

from roomful.diagnosis import (
    Diagnosis,
    Facts,
    Finding,
    clock_of,
    disk_facts,
    fact_findings,
    groups_of,
    home_finding,
    judged,
    shell_findings,
    stage_finding,
)
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.ssh import Completed, HostConnection, HostGroup

#: Each stage's deadline, in seconds.
SHELL_SECONDS = 10.0
HOME_SECONDS = 8.0
MACHINE_SECONDS = 10.0

_START = b"roomful-shell\n"
# Says its own line first: what stands before it comes from the shell's start files.
_SHELL = """\
echo roomful-shell
python3 -I -S -c 'import sys; print("python %d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo python
command -v rsync >/dev/null 2>&1 && echo rsync || echo
"""
# $1 workdir, $2 name of our mark, $3 bytes to write. Prints: file system, free KiB, what quota says, all marks.
_HOME = """\
umask 077
cd "$HOME" || exit 81
case $1 in "~") w=$HOME;; "~/"*) w=$HOME/${1#"~/"};; /*) w=$1;; *) w=$HOME/$1;; esac
case $w/ in "$HOME"/*) p=$HOME;; *) p=$w; while [ ! -d "$p" ]; do p=${p%/*}; p=${p:-/}; done;; esac
d=$p/.roomful-probe
mkdir -p "$d" || exit 82
head -c "$3" /dev/zero >"$d/$2" && [ "$(wc -c <"$d/$2")" -eq "$3" ] || { rm -f "$d/$2"; rmdir "$d"; exit 83; }
: >"$d/$2"
find "$d" -type f -mmin +60 -exec rm -f {} +
echo roomful-home
stat -f -c %T "$p" 2>/dev/null || echo
df -Pk "$p" | awk 'END {print $4}'
timeout 3 quota -w 2>/dev/null
echo roomful-marks "$d"
ls "$d"
"""
_CLEAN = 'rm -f "$1/$2"; rmdir "$1" 2>/dev/null; true'
#: Written to the disk and removed again: a full disk and a used-up quota show when something is written.
PROBE_BYTES = 1 << 20

OnOutcome = Callable[[Outcome[Diagnosis]], None]


@functools.cache
def probe_source() -> str:
    """Return the program that tells what a machine is."""
    return (resources.files("roomful.remote") / "probe.py").read_text(encoding="utf-8")


def examine(hosts: Sequence[Host], settings: Settings, on_outcome: OnOutcome | None = None) -> Outcomes[Diagnosis]:
    """Examine all hosts at once; a host with a problem is ``failed`` with the first problem's reason.

    ``on_outcome`` is called once a host, as soon as it has been examined, not always in this thread.
    """
    examination = _Examination(len(hosts), settings, on_outcome)
    # A host that waits for the others keeps its thread.
    group = HostGroup(hosts, settings.replace(parallel=max(settings.parallel, len(hosts))))
    numbers = {host: number for number, host in enumerate(hosts)}
    outcomes = group.each(lambda found: examination.work(numbers[found.entry], found), examination.ended)
    return examination.finished(outcomes)


class _Examination:
    """One run: who has been examined, and who saw whose mark."""

    def __init__(self, total: int, settings: Settings, on_outcome: OnOutcome | None) -> None:
        self.run = secrets.token_hex(6)
        self.settings = settings
        self.on_outcome = on_outcome
        self.start = time.monotonic()
        self._left = total
        self._seen: dict[int, list[int]] = {}
        self._told: set[Host] = set()
        self._changed = threading.Condition()

    def work(self, number: int, connection: HostConnection) -> Diagnosis:
        """Examine one host, then wait for all others before its mark is removed."""
        mark = f"{self.run}.{number}"
        found = _Examined()
        folder = ""
        try:
            found.shell(connection)
            folder, marks = found.home(connection, self.settings.workdir, mark)
            with self._changed:
                self._seen[number] = [int(name[len(self.run) + 1 :]) for name in marks if name.startswith(self.run)]
            if found.python_runs:
                found.machine(connection)
        except HostFailure as failure:
            found.findings.append(Finding("connection", failure.reason, failure.detail))
        diagnosis = found.diagnosis(time.monotonic() - self.start)
        self._tell(judged(Outcome(connection.entry, "ok", value=diagnosis, seconds=diagnosis.seconds)))
        self._arrive()
        if folder:
            self._wait()
            with contextlib.suppress(HostFailure):
                _sh(connection, _CLEAN, folder, mark, timeout=HOME_SECONDS)
        return diagnosis

    def ended(self, outcome: Outcome[Diagnosis]) -> None:
        """Take note of a host that was never reached."""
        if outcome.host not in self._told:
            self._tell(judged(_with_finding(outcome)))
            self._arrive()

    def finished(self, outcomes: Outcomes[Diagnosis]) -> Outcomes[Diagnosis]:
        """Return the outcomes as the diagnoses ask for, with who shares a home with whom."""
        groups = groups_of(self._seen)
        labels = [outcome.host.label for outcome in outcomes]
        results = []
        for number, outcome in enumerate(outcomes):
            diagnosis = outcome.value
            if diagnosis is not None:
                others = sorted(groups.get(number, frozenset()) - {number})
                diagnosis = dataclasses.replace(diagnosis, shares_home_with=tuple(labels[other] for other in others))
                outcome = dataclasses.replace(outcome, value=diagnosis, seconds=diagnosis.seconds)
            results.append(judged(_with_finding(outcome)))
        return Outcomes(results)

    def _tell(self, outcome: Outcome[Diagnosis]) -> None:
        with self._changed:
            self._told.add(outcome.host)
            if self.on_outcome:
                self.on_outcome(outcome)

    def _arrive(self) -> None:
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def _wait(self) -> None:
        settings = self.settings
        # No host takes longer than all its deadlines together.
        longest = settings.connect_timeout_seconds + settings.login_timeout_seconds
        with self._changed:
            self._changed.wait_for(lambda: self._left <= 0, longest + SHELL_SECONDS + HOME_SECONDS + MACHINE_SECONDS)


def _sh(connection: HostConnection, script: str, *words: str, timeout: float) -> Completed:
    # Over standard input: a line this long is more than some login shells take.
    return connection.execute(["sh", "-s", "--", *words], stdin=script.encode(), timeout=timeout, check=False)


def _with_finding(outcome: Outcome[Diagnosis]) -> Outcome[Diagnosis]:
    """Give an outcome that never came to a diagnosis one, with the stage where it ended."""
    if outcome.value is not None:
        return outcome
    finding = stage_finding(outcome.reason or "error", outcome.detail)
    return dataclasses.replace(outcome, value=Diagnosis(findings=(finding,), seconds=outcome.seconds))


class _Examined:
    """What has been found on one host so far."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.findings: list[Finding] = []
        self.python_runs = False

    def shell(self, connection: HostConnection) -> None:
        """See what the login shell says and which programs it finds."""
        try:
            done = _sh(connection, _SHELL, timeout=SHELL_SECONDS)
        except HostFailure as failure:
            if failure.reason != "command-timeout":
                raise
            detail = f"no command starts within {SHELL_SECONDS:g} s: the home, or a start file of the shell, hangs"
            raise HostFailure("shell-hangs", detail) from failure
        before, found, after = done.stdout.partition(_START)
        if not found:
            words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
            raise HostFailure("shell", f"its login shell runs no command: {words[0] if words else done.exit_code}")
        lines = [*after.decode(errors="replace").splitlines(), "", ""]
        python = lines[0].removeprefix("python").strip()
        self.facts = dataclasses.replace(self.facts, python=python or None, rsync=lines[1] == "rsync")
        new = shell_findings(before, python, lines[1] == "rsync")
        self.python_runs = not any(finding.check == "python" for finding in new)
        self.findings += new

    def home(self, connection: HostConnection, workdir: str, mark: str) -> tuple[str, list[str]]:
        """Enter the home, write to the disk of the workdir, leave our mark; return its folder and all marks there."""
        try:
            done = _sh(connection, _HOME, workdir, mark, str(PROBE_BYTES), timeout=HOME_SECONDS)
        except HostFailure as failure:
            if failure.reason != "command-timeout":
                raise
            detail = f"the home, or the workdir's disk, hangs (a dead file server?): no answer in {HOME_SECONDS:g} s"
            self.findings.insert(0, Finding("home", "home-hangs", detail))
            return "", []
        if done.exit_code != 0:
            self.findings.insert(0, home_finding(done.exit_code, done.stderr))
            return "", []
        said = done.stdout.decode(errors="replace").partition("roomful-home\n")[2]
        disk, _, there = said.partition("roomful-marks ")
        folder, *marks = there.splitlines() or [""]
        self.facts = dataclasses.replace(self.facts, **disk_facts(disk.splitlines()))
        return folder, marks

    def machine(self, connection: HostConnection) -> None:
        """Let the probe tell what the machine is; compare its clock with ours."""
        heard: list[float] = []
        parts: list[bytes] = []

        def take(stream: str, chunk: bytes) -> None:
            heard.append(time.time())
            if stream == "stdout":
                parts.append(chunk)

        sent = time.time()
        try:
            connection.python(probe_source(), timeout=MACHINE_SECONDS, on_output=take)
            facts = json.loads(b"".join(parts).rpartition(b"roomful-probe ")[2])
            clock = clock_of(sent, heard[-1], float(facts.pop("time")))
        except HostFailure as failure:
            if failure.reason == "lost":
                raise
            self.findings.append(Finding("machine", failure.reason, f"the probe fails: {failure.detail}"))
            return
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.findings.append(Finding("machine", "protocol", f"the probe answers nothing sensible: {error}"))
            return
        known = {field.name for field in dataclasses.fields(Facts)}
        self.facts = dataclasses.replace(
            self.facts, clock=clock, **{key: value for key, value in facts.items() if key in known}
        )

    def diagnosis(self, seconds: float) -> Diagnosis:
        """Sum up."""
        return Diagnosis(self.facts, (*self.findings, *fact_findings(self.facts)), seconds)
