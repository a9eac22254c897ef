"""When an agent counts as dead, and what becomes of its tasks then."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple

from roomful.agent.scripts import Scripts

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 30.0
#: Silence after which an agent is dead if its host is known to be alive.
SILENCE_SECONDS = 8.0
#: Heartbeats that may be missing, where they come so seldom that the times above would be shorter.
MISSED_BEATS = 2.5


class Lost(NamedTuple):
    """An agent that was given up, and how many tasks wait again because of it."""

    agent: str
    tasks: int


def longest_pause_ms(heartbeat_seconds: float) -> int:
    """Return the pause in hearing anyone, after which the server itself must have been away: leases start afresh."""
    return int(max(3.0, 1.5 * heartbeat_seconds) * 1000)


def times_of(settings: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the lease, the silence and the heartbeat that the keeper was started with, in seconds.

    Both are long enough for an agent to miss some heartbeats.
    """
    beat = float(settings.get("heartbeat_seconds", HEARTBEAT_SECONDS))
    lease = float(settings.get("lease_seconds", LEASE_SECONDS))
    silence = float(settings.get("agent_silence_seconds", SILENCE_SECONDS))
    return max(lease, MISSED_BEATS * beat), max(silence, MISSED_BEATS * beat), beat


def expire(
    scripts: Scripts,
    lease_seconds: float = LEASE_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    alive_hosts: Iterable[str] = (),
) -> list[Lost]:
    """Give back the tasks of dead agents; to be called about once a second, by anyone, also by several.

    ``alive_hosts`` are labels of hosts that answer right now: their agents are dead after ``silence_seconds``, the
    others' after ``lease_seconds``. Time in which nobody called this and no agent was heard does not count.
    """
    reply = scripts.call(
        "expire",
        int(lease_seconds * 1000),
        int(silence_seconds * 1000),
        longest_pause_ms(heartbeat_seconds),
        *alive_hosts,
    )
    return [Lost(agent.decode(), tasks) for agent, tasks in zip(reply[::2], reply[1::2])]
