"""When an agent counts as dead, and what becomes of its tasks then."""

from __future__ import annotations

from typing import Iterable, NamedTuple

from roomful.agent.scripts import Scripts

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 30.0
#: Silence after which an agent is dead if its host is known to be alive.
SILENCE_SECONDS = 8.0


class Lost(NamedTuple):
    """An agent that was given up, and how many tasks wait again because of it."""

    agent: str
    tasks: int


def longest_pause_ms(heartbeat_seconds: float) -> int:
    """Return the pause in hearing anyone, after which the server itself must have been away: leases start afresh."""
    return int(max(3.0, 1.5 * heartbeat_seconds) * 1000)


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
