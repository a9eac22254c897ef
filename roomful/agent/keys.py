"""The names of the queue's structures; ``lua/common.lua`` says what each holds."""

from __future__ import annotations


class Keys:
    """The key names of one queue. The braces keep them together on a server that shards by key."""

    def __init__(self, cluster: str) -> None:
        self.prefix = "{roomful:" + cluster + "}:"

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.prefix + name

    def held(self, agent: str) -> str:
        """Name the set of ids that an agent holds."""
        return f"{self.prefix}held:{agent}"
