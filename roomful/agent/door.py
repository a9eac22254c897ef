"""The door to a queue server of the user's own: a Unix socket where our Valkey's would be, leading to a URL.

Everything else stays as it is: clients come through their SSH links and log in with our passwords. The door checks
those, logs in over there, and passes bytes on. Agents have no more rights there than on our own Valkey: an ACL user
of theirs is made, if the URL's account may do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Tuple

from roomful.agent.acl import acl_rules
from roomful.agent.keys import Keys
from roomful.agent.private import Refusal, read_json
from roomful.agent.supervisor import logger_to
from roomful.agent.valkey import OLDEST, passwords_in

#: Seconds for the connection and login over there.
CONNECT_SECONDS = 10.0
#: A connection whose packets stay unanswered for this long is lost (TCP_USER_TIMEOUT, in milliseconds).
LOST_AFTER_MS = 30_000
_TCP_USER_TIMEOUT = 18
_CHUNK_BYTES = 1 << 16
#: Longest word of a login.
_LONGEST_WORD = 1024
#: Keys removed in one step when the queue is forgotten.
_PAGE = 1000

Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream(NamedTuple):
    """Where a URL leads, and as whom."""

    where: str
    path: str
    host: str
    port: int
    username: str
    password: str
    database: int
    tls: ssl.SSLContext | None


class Found(NamedTuple):
    """What was found out about a server of the user's."""

    where: str
    program_version: str
    #: Whether agents have an ACL user of their own there.
    own_user: bool
    #: What the user should know, in sentences.
    notes: list[str]


def parse(url: str) -> Upstream:
    """Read a URL: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it; raises Refusal."""
    from redis.connection import SSLConnection, parse_url

    shown = "server_url"
    try:
        given: Mapping[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has types for a part only
        # Without a host or a path it would be this machine's own server, which nobody named.
        if not (given.get("host") or given.get("path")):
            raise ValueError("it names neither a host nor a socket")
        tls = _tls(given) if given.get("connection_class") is SSLConnection else None
    except (ValueError, OSError) as error:
        fix = "write rediss://USER:PASSWORD@HOST:PORT/0, redis://... or unix:///PATH"
        raise Refusal("bad URL of a queue server", where=shown, why=str(error), fix=fix) from None
    host, port, database = str(given.get("host", "")), int(given.get("port", 6379)), int(given.get("db", 0))
    path = str(given.get("path", ""))
    place = f"unix://{path}" if path else f"{'rediss' if tls else 'redis'}://{host}:{port}"
    where = f"{place}/{database}" if database and not path else place
    return Upstream(where, path, host, port, given.get("username") or "", given.get("password") or "", database, tls)


def _tls(given: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
    if given.get("ssl_cert_reqs") in ("none", "CERT_NONE"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if given.get("ssl_certfile"):
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    return context


def agent_user(cluster: str) -> str:
    """Name the agents' ACL user on a server that others may use too."""
    return f"roomful-{cluster}-agent"


def prepare(url: str, cluster: str, agent_password: str) -> Found:
    """Look at a server, make the agents' user there, and say what it is; raises Refusal if it will not do."""
    import redis

    upstream = parse(url)
    client = _client(url)
    try:
        server, memory, persistence = (client.info(part) for part in ("server", "memory", "persistence"))
        own_user = True
        try:
            rules = acl_rules(cluster)
            client.execute_command("ACL", "SETUSER", agent_user(cluster), "reset", "on", f">{agent_password}", *rules)
        except redis.ResponseError:
            own_user = False
    except (redis.RedisError, OSError) as error:
        raise Refusal("cannot work with the queue server", where=upstream.where, why=str(error)) from None
    finally:
        client.close()
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise Refusal(f"{name} {version} is older than {oldest}", where=upstream.where)
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if memory.get("maxmemory") and policy != "noeviction":
        why = f"with maxmemory-policy {policy} it throws tasks away when its memory is full"
        raise Refusal("would lose tasks", where=upstream.where, why=why, fix="set maxmemory-policy noeviction there")
    notes = []
    if not persistence.get("aof_enabled"):
        notes.append("it keeps no append-only file: a restart there may lose tasks")
    if not own_user:
        notes.append("agents have all rights of the URL's account: it may not make a user for them")
    return Found(upstream.where, f"{name} {version} at {upstream.where}", own_user, notes)


def forget(url: str, cluster: str) -> None:
    """Remove the cluster's keys and user from a server; raises Refusal."""
    import redis

    client = _client(url)
    try:
        cursor, pattern = -1, Keys(cluster).prefix + "*"
        while cursor:
            cursor, keys = client.scan(max(cursor, 0), match=pattern, count=_PAGE)
            if keys:
                client.unlink(*keys)
        with contextlib.suppress(redis.ResponseError):
            client.execute_command("ACL", "DELUSER", agent_user(cluster))
    except (redis.RedisError, OSError) as error:
        raise Refusal("cannot remove the queue", where=parse(url).where, why=str(error)) from None
    finally:
        client.close()


def _client(url: str) -> Any:
    import redis

    try:
        return redis.Redis.from_url(url, socket_timeout=CONNECT_SECONDS, lib_name=None, lib_version=None)
    except ValueError as error:
        raise Refusal("bad URL of a queue server", where="server_url", why=str(error)) from None


class Door:
    """Serve the socket of a server's folder, whose ``upstream.json`` has the URL."""

    def __init__(self, directory: Path, plan: Mapping[str, Any], url: str) -> None:
        self.cluster = str(plan["cluster"])
        self.socket = str(plan["socket"])
        self.own_user = bool(plan["own_user"])
        self.url = url
        self.upstream = parse(url)
        self.passwords = passwords_in(directory)
        # Where the supervisor looks for the words of whatever serves the socket.
        self.log = logger_to(directory / "valkey.log")
        self._said = ""

    async def run(self) -> None:
        """Serve until a SIGTERM."""
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        os.umask(0o177)
        server = await asyncio.start_unix_server(self._serve, self.socket, limit=_CHUNK_BYTES)
        self.log.info("the door to %s is open", self.upstream.where)
        await ended.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: Streams | None = None
        try:
            user = await self._admitted(reader)
            if not user:
                writer.write(b"-WRONGPASS invalid username-password pair\r\n")
                return
            try:
                far = await asyncio.wait_for(self._connected(user), CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, Refusal) as error:
                why = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
                self._complain(why)
                line = f"-ERR cannot reach {self.upstream.where}: {why}".replace("\r", " ").replace("\n", " ")
                writer.write(line.encode() + b"\r\n")
                return
            self._complain("")
            writer.write(b"+OK\r\n")
            ways = [asyncio.ensure_future(_pass_on(reader, far[1])), asyncio.ensure_future(_pass_on(far[0], writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            # What came is no login, or whoever came has gone.
            pass
        finally:
            for end in (writer, far[1] if far else None):
                if end is not None:
                    end.close()

    async def _admitted(self, reader: asyncio.StreamReader) -> str:
        """Read ``AUTH USER PASSWORD``; returns the user, empty if it is none of ours or the password is wrong."""
        words = []
        for _ in range(_number(await reader.readline(), b"*", 3)):
            size = _number(await reader.readline(), b"$", _LONGEST_WORD)
            words.append((await reader.readexactly(size + 2))[:-2])
        if len(words) != 3 or words[0].upper() != b"AUTH":
            return ""
        user = words[1].decode("ascii", "replace")
        right = hmac.compare_digest(words[2], self.passwords.get(user, "").encode())
        return user if right and user in self.passwords else ""

    async def _connected(self, user: str) -> Streams:
        """Connect and log in over there."""
        far = await self._opened(user)
        if far is None:
            # A server that does not keep its users over a restart: the agents' one is made again.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, prepare, self.url, self.cluster, self.passwords["agent"])
            far = await self._opened(user)
        if far is None:
            raise Refusal("it does not let us in")
        return far

    async def _opened(self, user: str) -> Streams | None:
        upstream = self.upstream
        if upstream.path:
            reader, writer = await asyncio.open_unix_connection(upstream.path)
        else:
            name = upstream.host if upstream.tls else None
            reader, writer = await asyncio.open_connection(
                upstream.host, upstream.port, ssl=upstream.tls, server_hostname=name
            )
            _watch(writer.get_extra_info("socket"))
        login = [upstream.username, upstream.password]
        if user == "agent" and self.own_user:
            login = [agent_user(self.cluster), self.passwords["agent"]]
        requests = [["AUTH", *filter(None, login)]] if login[1] else []
        if upstream.database:
            requests.append(["SELECT", str(upstream.database)])
        try:
            for words in requests:
                encoded = [word.encode() for word in words]
                writer.write(
                    b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
                )
                answer = (await reader.readline()).decode(errors="replace").strip()
                if answer.startswith(("-WRONGPASS", "-NOAUTH")):
                    writer.close()
                    return None
                if answer != "+OK":
                    raise Refusal(answer.lstrip("-") or "it closed the connection")
        except BaseException:
            writer.close()
            raise
        return reader, writer

    def _complain(self, why: str) -> None:
        """Log a trouble once, and its end."""
        if why != self._said:
            self.log.warning("%s", f"cannot reach {self.upstream.where}: {why}" if why else "reached again")
            self._said = why


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(_CHUNK_BYTES)
        if not data:
            return
        writer.write(data)
        # Waits while the other side takes nothing, so that nothing piles up here.
        await writer.drain()


def _number(line: bytes, kind: bytes, most: int) -> int:
    """Read a length of the protocol; raises ValueError."""
    if not line.startswith(kind) or not line.endswith(b"\r\n"):
        raise ValueError(line)
    number = int(line[1:])
    if not 0 <= number <= most:
        raise ValueError(line)
    return number


def _watch(link: Any) -> None:
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, LOST_AFTER_MS)


def main(arguments: list[str]) -> int:
    """Keep the door of the folder given open."""
    directory = Path(arguments[1])
    plan, upstream = read_json(directory / "server.json"), read_json(directory / "upstream.json")
    if plan is None or upstream is None:
        return 4
    asyncio.run(Door(directory, plan, str(upstream["url"])).run())
    return 0
