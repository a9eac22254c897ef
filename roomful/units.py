"""Sizes, durations and numbers of CPUs as people write them: ``4GiB``, ``90s``, ``1h30m``, ``0.5``.

Strict on purpose: a bare ``4`` for a memory size has been read as bytes, MB and GiB by different tools.
"""

from __future__ import annotations

import math
import re

#: Bytes in each unit. ``k`` is the SI prefix; ``K`` is what people write.
SIZE_UNITS: dict[str, int] = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

#: Seconds in each unit.
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")


def parse_size(text: str) -> int:
    """Read a size with its unit and return bytes, rounded up.

    Raises ValueError with a sentence that says what to write.
    """
    match = _SIZE.fullmatch(text.strip())
    if match and match[2] in SIZE_UNITS:
        return math.ceil(float(match[1]) * SIZE_UNITS[match[2]])
    if re.fullmatch(_NUMBER, text.strip()):
        raise ValueError(f"size {text!r} has no unit; write {text.strip()}GiB or {text.strip()}MB")
    if match:
        letter = match[2][0].upper()
        if match[2].upper() in (letter, f"{letter}B", f"{letter}IB") and letter in "KMGT":
            raise ValueError(f"size {text!r} has no exact unit; write {match[1]}{letter}iB or {match[1]}{letter}B")
    raise ValueError(f"bad size {text!r}; write a number and a unit: 4GiB, 500MB")


def parse_duration(text: str) -> float:
    """Read a time span with its units and return seconds.

    Raises ValueError with a sentence that says what to write.
    """
    compact = text.replace(" ", "")
    if re.fullmatch(_NUMBER, compact):
        raise ValueError(f"duration {text!r} has no unit; write {compact}s or {compact}m")
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"bad duration {text!r}; write a number and a unit: 90s, 5m, 1h30m")
    parts = _DURATION_PART.findall(compact)
    units = [unit for _, unit in parts]
    if units != sorted(set(units), key=DURATION_UNITS.__getitem__, reverse=True):
        raise ValueError(f"bad duration {text!r}; write each unit once, the largest first: 1h30m")
    return math.fsum(float(number) * DURATION_UNITS[unit] for number, unit in parts)


def parse_cpus(text: str) -> float:
    """Read a number of CPUs, fractions allowed.

    Raises ValueError with a sentence that says what to write.
    """
    if not re.fullmatch(_NUMBER, text.strip()):
        raise ValueError(f"bad number of CPUs {text!r}; write 2 or 0.5")
    return float(text)


def parse_whole(text: str, *, negative: bool = False) -> int:
    """Read a whole number of at most nine digits.

    Raises ValueError with a sentence that says what to write.
    """
    if not re.fullmatch(r"-?[0-9]{1,9}" if negative else r"[0-9]{1,9}", text.strip()):
        raise ValueError(f"{text!r} is not a whole number{'' if negative else ' of 0 or more'}")
    return int(text)
