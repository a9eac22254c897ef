"""Adding many tasks: packed by us, several chunks on the way at a time, each exactly once."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import redis
from redis.connection import ConnectionInterface

from roomful.agent.scripts import Scripts
from roomful.agent.task import TaskSpec, digest_of
from roomful.queue_wire import chunks, merge_ranges, pack_command
from roomful.records import SubmitReport

#: Chunks on the way: while the server works on one, the next is packed.
_WINDOW = 3
#: Tries of a chunk over new connections.
_RECONNECTS = 5
#: The append-only file is synced once a second; a disk slower than this is reported.
_DURABLE_SECONDS = 30


class Submitter:
    """One submission. A chunk whose reply was lost is sent again under the same token, and not added twice."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Scripts,
        allow_duplicates: bool,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._progress = progress
        digest = scripts.load("submit").encode()
        prefix = scripts.prefix.encode()
        self._head = [b"EVALSHA", digest, b"1", prefix]
        self._flag = b"1" if allow_duplicates else b"0"
        self._waiting: deque[bytes] = deque()
        self._ranges: list[tuple[int, int]] = []
        self._added = self._skipped = 0

    def submit(self, specs: Iterable[TaskSpec | bytes]) -> SubmitReport:
        """Send the tasks, and wait until the server has them on disk."""
        connection = self._connect()
        token = secrets.token_hex(8).encode()
        try:
            for number, chunk in enumerate(chunks(specs)):
                digests = "".join(map(digest_of, chunk)).encode()
                packed = pack_command([*self._head, b"%b.%d" % (token, number), self._flag, digests, *chunk])
                self._waiting.append(packed)
                connection = self._send(connection, packed)
                if len(self._waiting) >= _WINDOW:
                    connection = self._receive(connection)
            while self._waiting:
                connection = self._receive(connection)
            durable = self._sync(connection) if self._added else True
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
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.NoScriptError) as error:
            return self._again(connection, error)
        self._waiting.popleft()
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

    def _sync(self, connection: Any) -> bool:
        """Wait for the disk. False where the server has no append-only file; raises ServerError if it is too slow."""
        # In pieces that are shorter than the connection's time-out for any reply.
        for _ in range(_DURABLE_SECONDS // 5):
            try:
                connection.send_command("WAITAOF", 1, 0, 5000)
                local, _ = connection.read_response()
            except redis.ResponseError as error:
                return False if "appendonly" in str(error) else self._sync_without_waitaof()
            if local:
                return True
        raise redis.TimeoutError(f"the server's disk did not take the tasks within {_DURABLE_SECONDS} s")

    def _sync_without_waitaof(self) -> bool:
        """Wait for an older server's next whole second of syncing."""
        deadline = time.monotonic() + _DURABLE_SECONDS
        time.sleep(1.1)
        while time.monotonic() < deadline:
            info: Any = self._client.info("persistence")
            if not info.get("aof_enabled"):
                return False
            if not info.get("aof_pending_bio_fsync") and not info.get("aof_buffer_length"):
                return bool(info.get("aof_last_write_status") == "ok")
            time.sleep(0.1)
        raise redis.TimeoutError(f"the server's disk did not take the tasks within {_DURABLE_SECONDS} s")
