"""Nmap's command lines and the options that are refused before it runs."""

from __future__ import annotations

import pytest

from roomful.errors import InputError, MissingProgram
from roomful.nmap import ScanOptions, parse_time, patient_pass, port_pass, quick_pass, run

ALWAYS = ["-n", "--stats-every", "250ms"]
OUTPUT = ["-iL", "-", "-oX", "-"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            quick_pass("-PS22", ScanOptions(), raw=True),
            [
                *("--privileged", *ALWAYS, *OUTPUT, "-sn"),
                *("-T4", "--max-retries", "0", "--min-rate", "5000", "-PS22"),
            ],
            id="quick",
        ),
        pytest.param(
            quick_pass("-PE", ScanOptions(rate=300, max_rtt_timeout=0.06), raw=False),
            [
                *("--unprivileged", *ALWAYS, "--max-rtt-timeout", "60ms", *OUTPUT, "-sn"),
                *("-T4", "--max-retries", "0", "--min-rate", "300", "-PE"),
            ],
            id="quick-options",
        ),
        pytest.param(
            patient_pass(ScanOptions(port=2222), raw=True),
            ["--privileged", *ALWAYS, *OUTPUT, "-sn", "-PE", "-PS2222"],
            id="patient",
        ),
        pytest.param(
            patient_pass(ScanOptions(), raw=False),
            ["--unprivileged", *ALWAYS, *OUTPUT, "-sn", "-PS22,443"],
            id="patient-unprivileged",
        ),
        pytest.param(
            port_pass(ScanOptions(port=2222), raw=True),
            ["--privileged", *ALWAYS, *OUTPUT, "-Pn", "-sS", "-T4", "--max-retries", "2", "-p", "2222"],
            id="port",
        ),
        pytest.param(
            port_pass(ScanOptions(), raw=False),
            ["--unprivileged", *ALWAYS, *OUTPUT, "-Pn", "-sT", "-T4", "--max-retries", "2", "-p", "22"],
            id="port-unprivileged",
        ),
    ],
)
def test_arguments(arguments: list[str], expected: list[str]) -> None:
    assert arguments == expected


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("60ms", 0.06), ("0.5s", 0.5), ("2s", 2.0), ("1m", 60.0)])
def test_parse_time(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["60", "ms", "-1s", "60ms; reboot", "60ms --script x", "1e3s"])
def test_a_bad_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--max-rtt-timeout: .*60ms"):
        parse_time(text)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"port": 0}, "--port"),
        ({"port": 65536}, "--port"),
        ({"max_rtt_timeout": 0.001}, "--max-rtt-timeout"),
        ({"max_rtt_timeout": 61}, "--max-rtt-timeout"),
        ({"rate": 0}, "--rate"),
        ({"rate": 1_000_000}, "--rate"),
        ({"dns_timeout": -1}, "--dns-timeout"),
        ({"dns_timeout": float("inf")}, "--dns-timeout"),
        ({"dns_timeout": float("nan")}, "--dns-timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], where: str) -> None:
    with pytest.raises(InputError) as caught:
        ScanOptions(**options)  # type: ignore[arg-type]
    assert caught.value.where == where


def test_nmap_missing_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgram, match="nmap is not installed; install it with: sudo apt install nmap"):
        run([], ["10.0.0.0/24"], 22, lambda host: None)
