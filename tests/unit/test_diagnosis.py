"""What a doctor makes of what hosts say: versions, noise, clocks, quotas, shared homes, verdicts."""

from __future__ import annotations

import pytest

from roomful import diagnosis
from roomful.diagnosis import Clock, Diagnosis, Facts, Finding
from roomful.hosts import Host
from roomful.outcome import Outcome


@pytest.mark.parametrize(
    ("sent", "received", "remote", "offset", "uncertainty"),
    [
        (100.0, 100.2, 100.1, 0.0, 0.1),
        (100.0, 104.0, 3702.0, 3600.0, 2.0),
        (100.0, 100.0, 40.0, -60.0, 0.0),
        # Our own clock was set back meanwhile.
        (100.0, 99.0, 99.5, 0.0, 0.0),
    ],
)
def test_a_clock_is_compared_with_the_middle_of_our_two_looks(
    sent: float, received: float, remote: float, offset: float, uncertainty: float
) -> None:
    clock = diagnosis.clock_of(sent, received, remote)
    assert (clock.offset, clock.uncertainty) == (pytest.approx(offset), pytest.approx(uncertainty))


@pytest.mark.parametrize(
    ("clock", "text", "warned"),
    [
        (Clock(0.1, 0.2), "ok", False),
        (Clock(-1.5, 0.1), "-1.5 s", False),
        (Clock(7200.0, 0.1), "+2 h 0 min", True),
        (Clock(-3.0, 0.1), "-3.0 s", True),
        # A slow answer says little: it may all be the way there.
        (Clock(3.0, 2.0), "+3.0 s", False),
    ],
)
def test_a_wrong_clock_is_told_when_it_is_certain(clock: Clock, text: str, warned: bool) -> None:
    assert str(clock) == text
    assert [item.check for item in diagnosis.fact_findings(Facts(clock=clock))] == ["clock"] * warned


@pytest.mark.parametrize(
    ("text", "version"),
    [("3.8.10", (3, 8, 10)), ("3.11", (3, 11)), ("", ()), ("3.x", ()), ("Python 3", ())],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert diagnosis.version_of(text) == version


@pytest.mark.parametrize(
    ("before", "python", "rsync", "reasons"),
    [
        pytest.param(b"", "3.8.0", True, [], id="well"),
        pytest.param(b" \n", "3.13.1", True, [], id="an empty line is no noise that matters"),
        pytest.param(b"hello\n", "3.8.0", True, ["noisy-shell"], id="noisy"),
        pytest.param(b"", "3.7.9", True, ["no-python"], id="old python"),
        pytest.param(b"", "", False, ["no-python", "no-program"], id="nothing there"),
    ],
)
def test_what_the_login_shell_shows(before: bytes, python: str, rsync: bool, reasons: list[str]) -> None:
    assert [item.reason for item in diagnosis.shell_findings(before, python, rsync)] == reasons


def test_little_left_is_a_warning_and_no_problem() -> None:
    facts = Facts(cpus=2, load=2.5, memory_free_bytes=1 << 20, disk_free_bytes=1 << 20)
    found = diagnosis.fact_findings(facts)
    assert {item.check for item in found} == {"disk", "memory", "load"}
    assert not any(item.problem for item in found)
    assert diagnosis.fact_findings(Facts(cpus=2, load=1.9, memory_free_bytes=1 << 40, disk_free_bytes=1 << 40)) == []
    assert diagnosis.fact_findings(Facts()) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param("", None, id="no quota"),
        pytest.param("Disk quotas for user ada (uid 7): none\n", None, id="none"),
        pytest.param(
            "Disk quotas for user ada (uid 7):\n fs blocks quota limit\n /home 100 200 300 9 0 0",
            200 << 10,
            id="hard limit",
        ),
        pytest.param(" /home 100 200 0 9 0 0", 100 << 10, id="soft limit only"),
        pytest.param(" /home 250* 200 240 6days 9 0 0\n /data 1 0 0 1 0 0", 0, id="used up"),
        pytest.param(" /a 1 5 5 0 0 0\n /b 1 3 3 0 0 0", 2 << 10, id="the least counts"),
    ],
)
def test_quota(text: str, left: int | None) -> None:
    assert diagnosis.quota_left(text) == left


def test_the_disk_is_the_lesser_of_free_space_and_quota() -> None:
    assert diagnosis.disk_facts(["nfs", "1000"]) == {"file_system": "nfs", "disk_free_bytes": 1000 << 10}
    assert diagnosis.disk_facts(["nfs", "1000", " /home 1 5 5 0 0 0"])["disk_free_bytes"] == 4 << 10
    assert diagnosis.disk_facts(["", "?"]) == {}
    assert diagnosis.disk_facts([]) == {}


@pytest.mark.parametrize(
    ("seen", "groups"),
    [
        pytest.param({0: [], 1: []}, [{0}, {1}], id="each its own"),
        pytest.param({0: [], 1: [0], 2: [0, 1]}, [{0, 1, 2}], id="all one"),
        pytest.param({0: [], 1: [0], 2: [], 3: [2]}, [{0, 1}, {2, 3}], id="two servers"),
        pytest.param({0: [], 2: [1], 1: [0]}, [{0, 1, 2}], id="through another"),
        pytest.param({0: [7]}, [{0}], id="a mark of nobody"),
    ],
)
def test_shared_homes(seen: dict[int, list[int]], groups: list[set[int]]) -> None:
    found = diagnosis.groups_of(seen)
    assert {frozenset(group) for group in groups} == set(found.values())
    assert all(host in found[host] for host in seen)


@pytest.mark.parametrize(
    ("code", "stderr", "check", "reason"),
    [
        (83, b"head: write error: No space left on device\nrm: cannot remove", "disk", "disk-full"),
        (83, b"dd: Disk quota exceeded", "disk", "quota"),
        (82, b"mkdir: Permission denied", "home", "home"),
        (81, b"", "home", "home"),
        (2, b"sh: syntax error", "home", "home"),
    ],
)
def test_what_is_wrong_with_a_home(code: int, stderr: bytes, check: str, reason: str) -> None:
    found = diagnosis.home_finding(code, stderr)
    assert (found.check, found.reason) == (check, reason)


def test_the_stage_at_which_a_host_was_given_up() -> None:
    stages = {reason: diagnosis.stage_finding(reason, "x").check for reason in ("dns", "refused", "host-key", "auth")}
    assert stages == {"dns": "name", "refused": "port", "host-key": "host key", "auth": "login"}
    late = diagnosis.stage_finding("timeout", "the server does not finish the login within 6 s")
    assert late.check == "login"
    assert "home" in late.detail
    assert diagnosis.stage_finding("timeout", "no answer within 3 s").check == "port"


def test_the_first_problem_gives_the_reason_and_warnings_none() -> None:
    warning = Finding("clock", "clock", "late", problem=False)
    host = Host("node")
    well = Outcome(host, "ok", value=Diagnosis(findings=(warning,)))
    assert diagnosis.judged(well) is well
    problems = (warning, Finding("home", "home", "a"), Finding("rsync", "no-program", "b"))
    ill = diagnosis.judged(Outcome(host, "ok", value=Diagnosis(findings=problems)))
    assert (ill.status, ill.reason, ill.detail) == ("failed", "home", "a; b")
    gone = Outcome(host, "unreachable", "dns", value=Diagnosis(findings=(Finding("name", "dns", "c"),)))
    assert diagnosis.judged(gone).status == "unreachable"
