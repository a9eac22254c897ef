"""What a host was seen to be like, and what of it would stop or hinder a run. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roomful import report
from roomful.outcome import Outcome

#: The oldest Python that the agent and our other programs run on.
OLDEST_PYTHON = (3, 8)
#: Less free space than this is worth a word, in bytes.
LITTLE_DISK_BYTES = 1 << 30
LITTLE_MEMORY_BYTES = 512 << 20
#: A clock that is off by more misleads make and whoever compares times of files, in seconds.
CLOCK_SECONDS = 2.0
#: What the login shell says before our first command is cut at this many characters.
NOISE_WIDTH = 60


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a host. A problem would stop a run there; a warning would not."""

    check: str
    reason: str
    detail: str
    problem: bool = True


@dataclass(frozen=True)
class Clock:
    """How far a host's clock is ahead of ours, give or take the uncertainty; both in seconds."""

    offset: float
    uncertainty: float

    def __str__(self) -> str:
        if abs(self.offset) <= max(self.uncertainty, 0.5):
            return "ok"
        return f"{'+' if self.offset > 0 else '-'}{report.duration(abs(self.offset))}"


@dataclass(frozen=True)
class Facts:
    """What a host told about itself; None where it did not come to that. Sizes are bytes."""

    system: str | None = None
    python: str | None = None
    rsync: bool | None = None
    cpus: int | None = None
    cpu_model: str | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    load: float | None = None
    disk_free_bytes: int | None = None
    temporary_free_bytes: int | None = None
    file_system: str | None = None
    clock: Clock | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was learned about one host, and how long that took, in seconds."""

    facts: Facts = field(default_factory=Facts)
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    #: Labels of other hosts that have the same home.
    shares_home_with: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What would stop a run."""
        return tuple(finding for finding in self.findings if finding.problem)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a run would survive."""
        return tuple(finding for finding in self.findings if not finding.problem)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        facts = dict(vars(self.facts))
        clock = facts.pop("clock")
        return {
            **facts,
            "clock_offset_seconds": round(clock.offset, 3) if clock else None,
            "clock_uncertainty_seconds": round(clock.uncertainty, 3) if clock else None,
            "shares_home_with": list(self.shares_home_with),
            "problems": [_document(finding) for finding in self.problems],
            "warnings": [_document(finding) for finding in self.warnings],
        }


def _document(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "reason": finding.reason, "detail": finding.detail}


def clock_of(sent: float, received: float, remote: float) -> Clock:
    """Compare a host's clock with ours: it was read somewhere between our ``sent`` and ``received``."""
    return Clock(remote - (sent + received) / 2, max(0.0, (received - sent) / 2))


def version_of(text: str) -> tuple[int, ...]:
    """Read a version such as ``3.8.10``; () for anything else."""
    match = re.fullmatch(r"\d+(\.\d+)*", text.strip())
    return tuple(map(int, match[0].split("."))) if match else ()


def shell_findings(before: bytes, python: str, has_rsync: bool) -> list[Finding]:
    """Judge what the login shell printed of its own, and the programs that it finds."""
    findings = []
    noise = " ".join(before.decode(errors="replace").split())
    if noise:
        shown = noise if len(noise) <= NOISE_WIDTH else f"{noise[: NOISE_WIDTH - 3]}..."
        fix = "let ~/.bashrc be silent where the shell is not interactive"
        findings.append(
            Finding("shell", "noisy-shell", f"its shell prints {shown!r} first, which breaks rsync; {fix}")
        )
    version = version_of(python)
    if not version:
        findings.append(Finding("python", "no-python", "no python3 there, 3.8 or newer is needed"))
    elif version < OLDEST_PYTHON:
        findings.append(Finding("python", "no-python", f"python3 there is {python}, 3.8 or newer is needed"))
    if not has_rsync:
        findings.append(Finding("rsync", "no-program", "no rsync there, which deploy needs"))
    return findings


def fact_findings(facts: Facts) -> list[Finding]:
    """Judge the facts: what a run would survive, but people want to know."""
    found = []

    def warn(check: str, reason: str, detail: str) -> None:
        found.append(Finding(check, reason, detail, problem=False))

    clock = facts.clock
    if clock and abs(clock.offset) - clock.uncertainty > CLOCK_SECONDS:
        way = "ahead of" if clock.offset > 0 else "behind"
        warn("clock", "clock", f"its clock is {report.duration(abs(clock.offset))} {way} ours")
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < LITTLE_DISK_BYTES:
        warn("disk", "little-disk", f"{report.size(facts.disk_free_bytes)} of disk left")
    if facts.memory_free_bytes is not None and facts.memory_free_bytes < LITTLE_MEMORY_BYTES:
        warn("memory", "little-memory", f"{report.size(facts.memory_free_bytes)} of memory left")
    if facts.load is not None and facts.cpus and facts.load > facts.cpus:
        warn("load", "busy", f"busy: load {facts.load:g} on {facts.cpus} CPUs")
    return found


def quota_left(text: str) -> int | None:
    """Return the bytes that a user may still write, from the lines of ``quota -w``; None where there is no limit.

    Its columns after the file system's name: blocks of 1 KiB used, soft limit, hard limit, then files (quota(1)).
    """
    left = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and all(word.rstrip("*").isdigit() for word in words[1:4]):
            used, soft, hard = (int(word.rstrip("*")) for word in words[1:4])
            limit = hard or soft
            if limit:
                left.append(max(0, limit - used) * 1024)
    return min(left) if left else None


def groups_of(seen: Mapping[int, Iterable[int]]) -> dict[int, frozenset[int]]:
    """Put hosts that share a folder into groups: ``seen`` has, by host, whose marks it saw there.

    Of two hosts that share, at least the later one saw the other's mark, so connected hosts are one group.
    """
    group: dict[int, set[int]] = {host: {host} for host in seen}
    for host, others in seen.items():
        for other in others:
            if other in group and group[other] is not group[host]:
                group[host] |= group[other]
                for member in group[other]:
                    group[member] = group[host]
    return {host: frozenset(members) for host, members in group.items()}


#: Stages that the fan-out itself goes through, by the reason it gives where they fail.
STAGES = {"dns": "name", "host-key": "host key", "auth": "login", "lost": "connection", "interrupted": "connection"}
#: Exit codes of the home's stage: cannot enter it, cannot make a folder, cannot write.
HOME_CODES = {81: "the home cannot be entered", 82: "nothing can be written", 83: "nothing can be written"}


def stage_finding(reason: str, detail: str) -> Finding:
    """Name the stage at which a host was given up."""
    if reason == "timeout" and "login" in detail:
        return Finding("login", reason, f"{detail}; a home that hangs (a dead file server) does this")
    return Finding(STAGES.get(reason, "port"), reason, detail)


def home_finding(code: int, stderr: bytes) -> Finding:
    """Say what is wrong with the home, from the exit code of its stage and what was said last."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    full = [line for line in lines if "No space left" in line or "quota exceeded" in line]
    said = (full or lines[-1:] or [""])[0]
    reason = "disk-full" if "No space left" in said else "quota" if "quota exceeded" in said else "home"
    what = HOME_CODES.get(code, f"its stage ends with exit code {code}")
    return Finding("disk" if reason != "home" else "home", reason, f"{what}: {said}" if said else what)


def disk_facts(lines: Sequence[str]) -> dict[str, Any]:
    """Read the kind of file system, the free KiB, and what quota says; what cannot be read is left out."""
    facts: dict[str, Any] = {}
    if lines and lines[0]:
        facts["file_system"] = lines[0]
    if len(lines) > 1 and lines[1].isdigit():
        left = quota_left("\n".join(lines[2:]))
        free = int(lines[1]) * 1024
        facts["disk_free_bytes"] = free if left is None else min(free, left)
    return facts


def judged(outcome: Outcome[Diagnosis]) -> Outcome[Diagnosis]:
    """Turn a host's outcome into a failure with the first problem's reason, if it has any."""
    problems = outcome.value.problems if outcome.value else ()
    if not problems or outcome.value is None:
        return outcome
    detail = "; ".join(finding.detail for finding in problems)
    status = outcome.status if outcome.status == "unreachable" else "failed"
    return dataclasses.replace(outcome, status=status, reason=problems[0].reason, detail=detail)
