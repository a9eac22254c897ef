"""A connection to a cluster's queue, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from roomful.agent.keys import Keys
from roomful.agent.scripts import Scripts
from roomful.errors import ServerError

#: What a server says or does that is about to be back. (The pool makes connections outside of a command's retries:
#: there the socket's own errors count.)
_PASSING = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)


class QueueConnection:
    """Connects over and over, for a while; what cannot be mended becomes a ServerError."""

    def __init__(self, client: redis.Redis, cluster: str, where: str = "") -> None:
        self._redis = client
        self._where = where
        #: The folder of the server's files, where this machine has them.
        self.data: Path | None = None
        self.keys = Keys(cluster)
        self.scripts = Scripts(client, self.keys.prefix)

    @classmethod
    def connect(
        cls, address: str, cluster: str, *, username: str = "", password: str = "", timeout: float = 15.0
    ) -> Self:
        """Connect to a server: the path of its Unix socket, or a ``unix://``, ``redis://`` or ``rediss://`` URL."""
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            # Over a restart of the server, which takes about a second: 2.5 s for a connection, 15 s for a command.
            "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
            "retry_on_error": [*_PASSING, ConnectionRefusedError, FileNotFoundError],
            **({"username": username} if username else {}),
            **({"password": password} if password else {}),
        }
        if "://" in address:
            client = redis.Redis.from_url(address, **options)
        else:
            client = redis.Redis(unix_socket_path=address, **options)
        queue = cls(client, cluster, where=re.sub(r"//[^/@]*@", "//", address))
        with queue._answering():
            client.ping()
        return queue

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()  # type: ignore[no-untyped-call]  # redis-py has types for a part only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise ServerError(
                "refuses us", where=self._where, why=str(error), fix="see: inv server-status"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            fix = "see: inv server-status"
            raise ServerError("the server does not answer", where=self._where, why=str(error), fix=fix) from error
        except redis.RedisError as error:
            why, fix = _refusal(str(error))
            raise ServerError("the server refused a command", where=self._where, why=why, fix=fix) from error


def _refusal(said: str) -> tuple[str, str]:
    """Take what a server says of a command that it refuses: why, and what to do about it where that is known."""
    # Where in which of our scripts it happened is for us, not for users.
    why = re.sub(r"\.?,? script: .*on @user_script:\d+\.$", "", said)
    if "maxmemory" in why:
        return why, "make room with inv collect and inv forget --done, or let the server have more memory"
    if why.startswith("MISCONF"):
        return why, "free some space on the server's disk; see: inv server-status"
    return why, ""
