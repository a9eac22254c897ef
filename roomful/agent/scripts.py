"""The queue's Lua scripts: each is one atomic step, documented at the top of its file in ``lua/``."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from typing import Any, Sequence, Union

import redis

Argument = Union[str, bytes, int]

#: What agents call; the rest is for the controller and the keeper.
AGENT_SCRIPTS = ("register", "claim", "finish", "requeue", "heartbeat", "leave")


def source(name: str) -> str:
    """Return the text of a script, with what the scripts share in front."""
    parts: list[str] = []
    for part in ("common", name):
        text = pkgutil.get_data("roomful.agent", f"lua/{part}.lua")
        if text is None:
            raise FileNotFoundError(f"lua/{part}.lua")
        parts.append(text.decode("ascii"))
    return "".join(parts)


def commands_of(text: str) -> frozenset[str]:
    """Return the commands that a script calls, in lower case."""
    return frozenset(word.lower() for word in re.findall(r"\bcall\('([A-Z]+)'", text))


class Scripts:
    """Calls the scripts of one queue, and loads them where the server does not have them (any more)."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self.prefix = prefix
        self._texts: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def digest(self, name: str) -> str:
        """Return the name under which the server knows a script."""
        if name not in self._digests:
            self._texts[name] = source(name)
            self._digests[name] = hashlib.sha1(self._texts[name].encode()).hexdigest()
        return self._digests[name]

    def call(self, name: str, *arguments: Argument) -> Any:
        """Run a script with the queue's prefix as its key."""
        digest = self.digest(name)
        try:
            return self._client.evalsha(digest, 1, self.prefix, *arguments)  # type: ignore[arg-type]  # also bytes
        except redis.exceptions.NoScriptError:
            self.load(name)
            return self._client.evalsha(digest, 1, self.prefix, *arguments)  # type: ignore[arg-type]

    def call_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Run several scripts, in this order, in one round trip; an error of any is raised after all have run."""
        replies = self._send_all(calls)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            # Those that did run are repeated, which all scripts can stand.
            for name, _ in calls:
                self.load(name)
            replies = self._send_all(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _send_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        pipe: Any
        with self._client.pipeline(transaction=False) as pipe:
            for name, arguments in calls:
                pipe.execute_command("EVALSHA", self.digest(name), 1, self.prefix, *arguments)
            replies: list[Any] = pipe.execute(raise_on_error=False)
        return replies

    def load(self, name: str) -> str:
        """Give the server a script."""
        digest = self.digest(name)
        self._client.script_load(self._texts[name])
        return digest
