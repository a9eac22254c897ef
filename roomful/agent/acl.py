"""What each kind of user may do on the server."""

from __future__ import annotations

from roomful.agent.keys import Keys
from roomful.agent.scripts import AGENT_SCRIPTS, commands_of, source


def acl_rules(cluster: str) -> list[str]:
    """Return the rules of the agents' ACL user, for ``ACL SETUSER NAME on >PASSWORD RULE...``.

    Agents run our scripts, block on the stream that wakes them, and that is all: a script runs with the rights of who
    calls it, so the commands inside the scripts are among the rules, each only for the queue's own keys.
    """
    inside = sorted(set().union(*(commands_of(source(name)) for name in AGENT_SCRIPTS)))
    allowed = ["ping", "hello", "evalsha", "script|load", "xread", *inside]
    return ["resetkeys", "resetchannels", "-@all", f"~{Keys(cluster).prefix}*", *(f"+{name}" for name in allowed)]
