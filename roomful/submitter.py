"""Adding many tasks: packed by us, several chunks on the way at a time, each exactly once."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis
from redis.connection import ConnectionInterface

from roomful.agent.scripts import Scripts
from roomful.agent.task import TaskSpec, digest_of
from roomful.durability import DiskWatch, Persistence, sync_files
from roomful.queue_wire import chunks, merge_ranges, pack_command
from roomful.records import SubmitReport

#: Chunks on the way: while the server works on one, the next is packed.
_WINDOW = 3
#: Tries of a chunk over new connections.
_RECONNECTS = 5
#: A disk that takes longer is reported.
_DURABLE_SECONDS = 30
_LOOK_SECONDS = 0.005
#: Goes with each chunk: the server carries both out in one turn, or this one later.
_ASK = pack_command([b"INFO", b"persistence"])


class Submitter:
    """One submission. A chunk whose reply was lost is sent again under the same token, and not added twice."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Scripts,
        allow_duplicates: bool,
        progress: Callable[[int], None] | None = None,
        data: Path | None = None,
    ) -> None:
        """``data`` is the folder of the server's files, where this machine has them."""
        self._client = client
        self._scripts = scripts
        self._progress = progress
        self._data = data
        digest = scripts.load("submit").encode()
        prefix = scripts.prefix.encode()
        self._head = [b"EVALSHA", digest, b"1", prefix]
        self._flag = b"1" if allow_duplicates else b"0"
        self._waiting: deque[bytes] = deque()
        self._ranges: list[tuple[int, int]] = []
        self._added = self._skipped = 0
        self._watch = DiskWatch()
        self._durable: bool | None = None

    def submit(self, specs: Iterable[TaskSpec | bytes]) -> SubmitReport:
        """Send the tasks, and wait until the server has them on disk."""
        connection = self._connect()
        token = secrets.token_hex(8).encode()
        try:
            for number, chunk in enumerate(chunks(specs)):
                digests = "".join(map(digest_of, chunk)).encode()
                packed = pack_command([*self._head, b"%b.%d" % (token, number), self._flag, digests, *chunk]) + _ASK
                self._waiting.append(packed)
                connection = self._send(connection, packed)
                if len(self._waiting) >= _WINDOW:
                    connection = self._receive(connection)
            while self._waiting:
                connection = self._receive(connection)
            # What others have just added may not be there yet either.
            durable = self._sync() if self._added or self._skipped else True
        finally:
            if self._waiting:
                # What made the tasks failed, or the server did: nobody may read the replies still to come.
                connection.disconnect()
            self._client.connection_pool.release(connection)
        return SubmitReport(merge_ranges(self._ranges), self._added, self._skipped, durable)

    def _connect(self) -> Any:
        connection: ConnectionInterface = self._client.connection_pool.get_connection("EVALSHA")
        return connection

    def _send(self, connection: Any, packed: bytes) -> Any:
        try:
            connection.send_packed_command([packed], check_health=False)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            return self._again(connection, error)
        return connection

    def _receive(self, connection: Any) -> Any:
        try:
            first, added, skipped = connection.read_response()
            persistence = Persistence.parse(connection.read_response())
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.NoScriptError) as error:
            return self._again(connection, error)
        self._waiting.popleft()
        self._watch = DiskWatch()
        self._durable = self._judge(persistence)
        self._added += added
        self._skipped += skipped
        if added:
            self._ranges.append((first, first + added - 1))
        if self._progress:
            self._progress(self._added + self._skipped)
        return connection

    def _again(self, connection: Any, error: Exception) -> Any:
        """Send all that was not answered over a new connection; the server knows what it has by the tokens."""
        for _ in range(_RECONNECTS):
            connection.disconnect()
            try:
                # The client's own retries, with their pauses, are in this call and in connect.
                self._scripts.load("submit")
                connection.connect()
                connection.send_packed_command(list(self._waiting), check_health=False)
            except (redis.ConnectionError, redis.TimeoutError) as again:
                error = again
            else:
                return connection
        raise error

    def _judge(self, seen: Persistence) -> bool | None:
        """Tell whether what was taken is on disk; False where there is nothing that keeps it, None: not yet."""
        if not (seen.kept and seen.sound):
            return False
        return True if self._watch.look(seen, time.monotonic()) else None

    def _sync(self) -> bool:
        """Wait for the disk. False where the server keeps nothing on it; raises TimeoutError if it is too slow."""
        deadline = time.monotonic() + _DURABLE_SECONDS
        while self._durable is None:
            if time.monotonic() > deadline:
                raise redis.TimeoutError(f"the server's disk did not take the tasks within {_DURABLE_SECONDS} s")
            fields: Any = self._client.info("persistence")
            seen = Persistence.of(fields)
            self._durable = self._judge(seen)
            if self._durable is None and self._data and not seen.syncing:
                # What the server's turns before this one have changed is in the file.
                if sync_files(self._data):
                    return True
                self._data = None
            time.sleep(_LOOK_SECONDS)
        return self._durable and not self._never_synced()

    def _never_synced(self) -> bool:
        """Tell whether a server of the user's own leaves all syncing to its system; ours lets nobody ask."""
        try:
            said: Any = self._client.config_get("appendfsync")
        except redis.ResponseError:
            return False
        return "no" in map(str, said.values())
