"""The settings that agents follow while they run, as ``NAME=VALUE`` words and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from roomful.agent.tuning import SETTINGS, check_setting
from roomful.errors import InputError
from roomful.report import size
from roomful.units import parse_duration, parse_size


@dataclass(frozen=True)
class LiveSetting:
    """One setting as it stands; ``values`` has those of single hosts too (key: the host, or empty for all)."""

    name: str
    kind: str
    default: float
    meaning: str
    values: Mapping[str, str]


def parse_changes(words: Iterable[str]) -> dict[str, str | None]:
    """Read ``NAME=VALUE`` words; an empty value means: back to the default.

    Seconds may carry a unit (``5m``), sizes must (``2GiB``), a number without one is seconds. Raises InputError.
    """
    changes: dict[str, str | None] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"bad word {word!r}", fix="write NAME=VALUE, such as slots=4")
        if name in changes:
            raise InputError(f"{name!r} is there twice")
        try:
            # An empty value is none to check, but the name is.
            checked = check_setting(name, _plain(name, text) if text else 1)
            changes[name] = checked if text else None
        except ValueError as error:
            raise InputError(str(error), fix="see them all: inv clients-config") from None
    return changes


def _plain(name: str, text: str) -> str:
    """Turn a value with a unit into a number; other values stay for the one who checks them."""
    kind = SETTINGS[name][0] if name in SETTINGS else ""
    if kind == "bytes" and text != "0":
        return str(parse_size(text))
    if kind == "seconds" and not text.replace(".", "", 1).isdigit():
        return f"{parse_duration(text):.10g}"
    return text


def live_settings(changed: Mapping[str, str]) -> list[LiveSetting]:
    """Return every setting, given what ``Queue.settings`` returns."""
    values: dict[str, dict[str, str]] = {name: {} for name in SETTINGS}
    for key, value in changed.items():
        name, _, host = key.partition("@")
        values.setdefault(name, {})[host] = value
    return [LiveSetting(name, *about, values[name]) for name, about in SETTINGS.items()]


def shown(setting: LiveSetting, value: float | str) -> str:
    """Write a value for people."""
    number = float(value)
    if setting.kind == "bytes":
        return size(number) if number else "0"
    if setting.kind == "switch":
        return "on" if number else "off"
    return f"{number:g} s" if setting.kind == "seconds" else f"{number:g}"
