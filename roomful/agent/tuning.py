"""Settings that can be changed while agents run; they travel with the heartbeats."""

from __future__ import annotations

from typing import Any, Mapping

#: Name -> (kind, default, what it means). Kinds: seconds, count, number, bytes (0: computed), switch, nice.
SETTINGS: Mapping[str, tuple[str, float, str]] = {
    "heartbeat_seconds": ("seconds", 2.0, "how often an agent says that it is alive"),
    "cut_off_grace_seconds": ("seconds", 600.0, "how long an agent that is cut off keeps its tasks running"),
    "slots": ("count", 0, "most tasks at a time on a host; 0: one for each CPU, more where tasks ask for less"),
    "max_load": ("number", 0, "no task starts while others load the host by more than this; 0: off"),
    "while_idle": ("switch", 0, "no task starts, and those that run are suspended, while someone is at the console"),
    "nice": ("nice", 10, "niceness of tasks; their disk traffic is of the idle class unless 0"),
    "memory_accept": ("bytes", 0, "memory that must be free to take a task; 0: 5 % of the host's"),
    "memory_evict": ("bytes", 0, "free memory below which the newest task goes back; 0: 2.5 % of the host's"),
    "spool_seconds": ("seconds", 1_209_600.0, "how long outputs too large for the queue stay on their host, at most"),
    "spool_bytes": ("bytes", 0, "most bytes of such outputs on a host, the oldest go first; 0: 10 % of the disk"),
    "kill_grace_seconds": ("seconds", 2.0, "between SIGTERM and SIGKILL"),
    "retries": ("count", 0, "how often a task is tried again after failing by itself, unless it says otherwise"),
    "max_losses": ("count", 3, "how often a task may go down with its host or agent before it is given up"),
    "elsewhere_wait_seconds": ("seconds", 300.0, "how long a task is kept for hosts on which it has not failed"),
    "reserve_after_seconds": ("seconds", 10.0, "how long a large task waits until a host makes room for it"),
}


def check_setting(name: str, value: Any) -> str:
    """Return a setting's value as text, or raise ValueError with a sentence."""
    if name not in SETTINGS:
        raise ValueError(f"unknown setting {name!r}; known: {', '.join(SETTINGS)}")
    kind = SETTINGS[name][0]
    words = {"true": 1.0, "yes": 1.0, "on": 1.0, "false": 0.0, "no": 0.0, "off": 0.0}
    try:
        number = words[str(value).lower()] if str(value).lower() in words else float(value)
    except ValueError:
        raise ValueError(f"{name}: {value!r} is not a number") from None
    lowest = {"seconds": 0.05, "nice": 0, "switch": 0}.get(kind, 0)
    highest = {"nice": 19, "switch": 1, "seconds": 10_000_000}.get(kind, 2**60)
    if not lowest <= number <= highest:
        raise ValueError(f"{name}: {value!r} is not within {lowest:g} and {highest:g}")
    if kind in ("count", "bytes", "nice", "switch") and number != int(number):
        raise ValueError(f"{name}: {value!r} is not a whole number")
    return f"{number:.10g}" if number != int(number) else str(int(number))


class Tuning:
    """The settings as one host sees them."""

    def __init__(
        self, host: str, values: Mapping[str, str] | None = None, defaults: Mapping[str, float] | None = None
    ) -> None:
        """``defaults`` are this host's own, where they are above 0."""
        self._host = host
        self._defaults = {name: value for name, value in (defaults or {}).items() if value > 0}
        self._values = dict(values or {})

    def replace(self, values: Mapping[str, str]) -> None:
        """Take over all settings as the server has them now."""
        self._values = dict(values)

    def __getitem__(self, name: str) -> float:
        default = self._defaults.get(name, SETTINGS[name][1])
        text = self._values.get(f"{name}@{self._host}", self._values.get(name))
        try:
            return default if text is None else float(text)
        except ValueError:
            return default
