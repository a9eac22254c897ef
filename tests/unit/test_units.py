"""Sizes, durations and CPUs as people write them."""

from __future__ import annotations

import pytest

from roomful.units import parse_cpus, parse_duration, parse_size, parse_whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 * 2**29),
        (" 2TiB ", 2 * 2**40),
        ("10kB", 10_000),
        ("10KB", 10_000),
        ("10KiB", 10_240),
        ("0B", 0),
        ("0.3B", 1),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4", "size '4' has no unit; write 4GiB or 4MB"),
        ("4G", "size '4G' has no exact unit; write 4GiB or 4GB"),
        ("4gb", "size '4gb' has no exact unit; write 4GiB or 4GB"),
        ("4mib", "size '4mib' has no exact unit; write 4MiB or 4MB"),
        ("-4GiB", "bad size '-4GiB'; write a number and a unit: 4GiB, 500MB"),
        ("1e3MB", "bad size '1e3MB'; write a number and a unit: 4GiB, 500MB"),
        ("4 bananas", "bad size '4 bananas'; write a number and a unit: 4GiB, 500MB"),
        ("", "bad size ''; write a number and a unit: 4GiB, 500MB"),
        ("٤GiB", "bad size '٤GiB'; write a number and a unit: 4GiB, 500MB"),
    ],
)
def test_bad_sizes_say_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        parse_size(text)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1.5h", 5400),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "duration '5' has no unit; write 5s or 5m"),
        ("5 minutes", "bad duration '5 minutes'; write a number and a unit: 90s, 5m, 1h30m"),
        ("30m1h", "bad duration '30m1h'; write each unit once, the largest first: 1h30m"),
        ("1h1h", "bad duration '1h1h'; write each unit once, the largest first: 1h30m"),
        ("-5s", "bad duration '-5s'; write a number and a unit: 90s, 5m, 1h30m"),
        ("", "bad duration ''; write a number and a unit: 90s, 5m, 1h30m"),
    ],
)
def test_bad_durations_say_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        parse_duration(text)
    assert str(caught.value) == says


def test_cpus_and_whole_numbers() -> None:
    assert parse_cpus("0.5") == 0.5
    assert parse_whole("-3", negative=True) == -3
    for parse, text in ((parse_cpus, "nan"), (parse_cpus, "1e3"), (parse_whole, "-3"), (parse_whole, "1.0")):
        with pytest.raises(ValueError, match=text):
            parse(text)
