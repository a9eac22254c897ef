"""The queue's engine: which Valkey program runs, with which configuration, users and passwords."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

from roomful.agent.private import Refusal, daemon_environment, read_json, write_json
from roomful.agent.server_folder import DATA

#: ACL files with channel rules, and `XAUTOCLAIM`-era commands, came with this version.
OLDEST = (6, 2, 0)
#: CLIENT SETINFO came with this version.
WITH_SETINFO = (7, 2, 0)

USERS = ("controller", "agent")

#: What the controller and the keeper may do: everything on keys, nothing to the server itself.
CONTROLLER_RULES = "~* &* +@all -@admin -@dangerous +info +client|setname +client|id"


class Program(NamedTuple):
    """A Valkey or Redis server program."""

    path: str
    version: tuple[int, int, int]
    name: str


def find_program(candidates: Sequence[str] = ()) -> Program:
    """Return the first program that is new enough: on PATH, else one of ``candidates`` (absolute paths).

    Raises Refusal with code ``no-program``, and a sentence for each that was found and would not do.
    """
    path = daemon_environment()["PATH"]
    found = [shutil.which(name, path=path) for name in ("valkey-server", "redis-server")]
    refused: list[str] = []
    for candidate in [*found, *candidates]:
        if not candidate or not os.path.exists(candidate):
            continue
        try:
            return check_program(candidate)
        except Refusal as refusal:
            refused.append(str(refusal))
    raise Refusal(
        "no Valkey server program here",
        why="; ".join(refused),
        fix="install one, for example: sudo apt-get install valkey-server (or redis-server)",
        code="no-program",
    )


def check_program(path: str) -> Program:
    """Ask a server program for its version; raises Refusal if it does not run or is too old."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal("does not run", where=path, why=str(error)) from error
    text = done.stdout.decode(errors="replace")
    match = re.search(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise Refusal("is no Valkey server that runs here", where=path, why=(text.strip().splitlines() or [""])[-1])
    version = (int(match[2]), int(match[3]), int(match[4]))
    if version < OLDEST:
        shown = ".".join(map(str, version))
        raise Refusal(f"{match[1]} {shown} is older than {'.'.join(map(str, OLDEST))}", where=path)
    return Program(path, version, match[1])


def configuration(directory: Path, socket_path: str, program: Program) -> str:
    """Write Valkey's configuration file: a Unix socket and nothing else, every write in the append-only file."""
    version = program.version
    settings: list[tuple[str, str]] = [
        ("port", "0"),
        ("unixsocket", socket_path),
        ("unixsocketperm", "600"),
        ("protected-mode", "yes"),
        ("daemonize", "no"),
        ("dir", str(directory / DATA)),
        ("logfile", str(directory / "valkey.log")),
        ("loglevel", "notice"),
        ("aclfile", str(directory / "users.acl")),
        ("databases", "1"),
        ("maxclients", "10000"),
        ("timeout", "0"),
        # No snapshots: the append-only file is the only copy, rewritten in place when it has doubled.
        ("save", ""),
        ("appendonly", "yes"),
        # Submissions wait for it: see roomful/durability.py. "always" would end the server when its disk is full.
        ("appendfsync", "everysec"),
        # A power cut leaves half a record at the end, which nobody was told is safe.
        ("aof-load-truncated", "yes"),
        ("auto-aof-rewrite-percentage", "100"),
        ("auto-aof-rewrite-min-size", "64mb"),
        # A queue never throws anything away to make room.
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
    ]
    if version >= (7, 0, 0):
        settings += [
            ("enable-debug-command", "no"),
            ("enable-module-command", "no"),
            ("enable-protected-configs", "no"),
        ]
    return "".join(f"{key} {quoted(value)}\n" for key, value in settings)


def quoted(value: str) -> str:
    r"""Quote a value for a configuration file; bytes other than printable ASCII become ``\xHH``."""
    out = []
    for byte in os.fsencode(value):
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        else:
            out.append(char if 32 <= byte < 127 else f"\\x{byte:02x}")
    return f'"{"".join(out)}"'


def acl_file(passwords: Mapping[str, str], agent_rules: str, program: Program) -> str:
    """Write the users: passwords only as SHA-256, and nothing without one."""
    controller = CONTROLLER_RULES
    if program.version >= WITH_SETINFO:
        controller += " +client|setinfo"
    rules = {"controller": controller, "agent": agent_rules}
    lines = ["user default off resetpass resetkeys resetchannels -@all"]
    for user in USERS:
        digest = hashlib.sha256(passwords[user].encode()).hexdigest()
        lines.append(f"user {user} on #{digest} {rules[user]}")
    return "".join(f"{line}\n" for line in lines)


def passwords_in(directory: Path) -> dict[str, str]:
    """Return the users' passwords, made now if there are none: 256 random bits each, in a file of ours (0600)."""
    path = directory / "passwords.json"
    known = read_json(path) or {}
    if not all(isinstance(known.get(user), str) and known[user] for user in USERS):
        known = {user: secrets.token_hex(32) for user in USERS}
        write_json(path, known)
    return {user: known[user] for user in USERS}


def ping(socket_path: str, user: str, password: str, timeout: float = 2.0) -> str:
    """Ask a server how it is: ``ready``, ``loading`` its data, ``down`` (nobody listens), or its own words.

    Speaks the protocol itself, so that the supervisor stays small.
    """
    words = [b"AUTH", user.encode(), password.encode()]
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(socket_path)
            link.sendall(request + b"*1\r\n$4\r\nPING\r\n")
            reply = b""
            while reply.count(b"\r\n") < 2:
                chunk = link.recv(4096)
                if not chunk:
                    break
                reply += chunk
    except socket.timeout:
        return f"no answer within {timeout:g} s"
    except OSError:
        return "down"
    lines = reply.decode(errors="replace").split("\r\n")
    if "-LOADING" in reply.decode(errors="replace"):
        return "loading"
    if lines[:2] == ["+OK", "+PONG"]:
        return "ready"
    # A forwarded socket accepts, and closes at once, where nobody listens at its end.
    return lines[0] or "down"


def what_was_cut(log: str) -> str:
    """Pick from the log what a server says when it has dropped the end of its data; empty if it did not."""
    match = re.search(r"Truncating the AOF (\S+) at offset (\d+)", log)
    return (
        f"a write cut short, as by a power failure, was dropped: {match[1]} ends at byte {match[2]} now"
        if match
        else ""
    )


def why_it_ended(log: str) -> tuple[str, bool]:
    """Pick the log's line that says why a server would not start, and tell whether its data file is the reason."""
    lines = [re.sub(r"^\d+:\w \d+ \w+ \d{4} [\d:.]+ [*#.-] ", "", line) for line in log.splitlines() if line.strip()]
    patterns = (
        r"(Bad file format|Error) reading the append only file|Unexpected end of file|Unrecoverable error reading",
        r"Unknown command .* append only file|The AOF .* (doesn't|does not) exist|AOF.*(manifest|corrupt)",
        r"Fatal|FATAL|Can't|Failed|failed|No space left|error|Error",
    )
    for number, pattern in enumerate(patterns):
        for line in reversed(lines):
            if re.search(pattern, line):
                return line.lstrip("# "), number < 2
    return (lines[-1] if lines else ""), False
