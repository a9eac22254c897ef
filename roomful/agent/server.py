"""Start, stop and look at the server on the machine where this runs.

The controller calls ``handle`` itself where it is the server, and ``python3 roomful.pyz server`` with the same
request over SSH where it is not. A request is a JSON object: ``verb``, ``cluster``, ``directory`` (empty: the usual
one), and what the verb takes. The reply is ``{"ok": {...}}`` or ``{"refused": {what, where, why, fix, code}}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

from roomful.agent import door
from roomful.agent.acl import acl_rules
from roomful.agent.keeper_link import valid_record
from roomful.agent.private import (
    NETWORK_FILE_SYSTEMS,
    Lock,
    Refusal,
    daemon_environment,
    file_system,
    locked,
    private_directory,
    read_json,
    write_atomically,
    write_json,
)
from roomful.agent.processes import process, send
from roomful.agent.server_folder import (
    DATA,
    data_without_manifest,
    directory_of,
    forget,
    keep_zipapp,
    last_lines,
    link_tool,
    size_of,
    socket_path_in,
)
from roomful.agent.valkey import acl_file, configuration, find_program, passwords_in

VERSION = 1
#: Reading back a large append-only file takes time: about 1 s for a million tasks.
START_SECONDS = 300.0
STOP_SECONDS = 90.0
#: Bytes without which nothing of ours can be written.
LEAST_SPACE = 64 * 1024
FREE_SPACE = "free some space, or set roomful.server_directory to another disk"

Reply = Dict[str, Any]


def start(request: Mapping[str, Any]) -> Reply:
    """Start the server unless it runs, and return its status once it answers.

    Takes ``zipapp`` (this program as one file; its name holds its digest), ``candidates`` (Valkey programs to fall
    back to), ``settings`` (the keeper's), ``upstream`` (URL of a server to use instead of an own Valkey).
    """
    directory = private_directory(directory_of(request))
    on = file_system(directory)
    if on in NETWORK_FILE_SYSTEMS:
        fix = "set roomful.server_directory to a folder on a local disk"
        raise Refusal(f"the queue's data cannot be kept on {on}", where=str(directory), fix=fix)
    with locked(directory / "start.lock", wait=START_SECONDS):
        if _orphaned(directory) or _stopping(directory):
            # Its supervisor was killed, or told to stop by a command that was not waited for: it starts again below.
            _stop(directory)
        already = Lock(directory / "lock").owner() is not None
        if already:
            _check_engine(directory, request)
        else:
            _launch(directory, request)
        _wait_until_ready(directory)
        reply = status(request)
        outdated = reply["zipapp"] != Path(request["zipapp"]).name
        return {**reply, "already": already, "outdated": outdated}


def _check_engine(directory: Path, request: Mapping[str, Any]) -> None:
    """Refuse to take a server that runs for another one."""
    running = str((read_json(directory / "server.json") or {}).get("upstream", ""))
    wanted = door.parse(request["upstream"]).where if request.get("upstream") else ""
    if running != wanted:
        names = [name or "a Valkey of its own" for name in (running, wanted)]
        what = f"the server runs with {names[0]}, not with {names[1]}"
        raise Refusal(what, where=str(directory), fix="stop it first: inv stop-server")


def _own_valkey(directory: Path, request: Mapping[str, Any], socket_path: str) -> dict[str, Any]:
    """Write what a Valkey of our own reads; returns its part of the plan."""
    lost = data_without_manifest(directory)
    if lost:
        fix = "put it back, or start anew: inv stop-server --forget"
        raise Refusal(
            "Valkey would begin anew", where=lost, why="the list of its files is missing", fix=fix, code="data"
        )
    program = find_program([*request.get("candidates", ()), *map(str, sorted(directory.glob("bin/valkey-server*")))])
    private_directory(directory / DATA)
    private_directory(directory / "bin")
    rules = " ".join(acl_rules(str(request["cluster"])))
    write_atomically(directory / "users.acl", acl_file(passwords_in(directory), rules, program).encode())
    write_atomically(directory / "valkey.conf", configuration(directory, socket_path, program).encode())
    link_tool(directory, program.path)
    return {
        "engine": [program.path, str(directory / "valkey.conf")],
        "program_version": f"{program.name} {'.'.join(map(str, program.version))}",
    }


def _other_server(directory: Path, request: Mapping[str, Any], command: list[str]) -> dict[str, Any]:
    """Look at the user's own server and write what the door to it reads; returns its part of the plan."""
    url = str(request["upstream"])
    found = door.prepare(url, str(request["cluster"]), passwords_in(directory)["agent"])
    write_json(directory / "upstream.json", {"url": url})
    return {
        "engine": [*command, "door", str(directory)],
        "program_version": found.program_version,
        "upstream": found.where,
        "own_user": found.own_user,
        "notes": found.notes,
    }


def _launch(directory: Path, request: Mapping[str, Any]) -> None:
    """Write what the supervisor reads, and start it; returns when it holds the lock."""
    socket_path = socket_path_in(directory, str(request["cluster"]))
    zipapp = keep_zipapp(directory, Path(request["zipapp"]))
    command = [sys.executable, "-I", "-S", str(zipapp)]
    if request.get("upstream"):
        engine = _other_server(directory, request, command)
    else:
        engine = _own_valkey(directory, request, socket_path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path)
    plan = {
        "version": VERSION,
        "cluster": request["cluster"],
        "socket": socket_path,
        "command": command,
        "settings": dict(request.get("settings", {})),
        **engine,
    }
    write_json(directory / "server.json", plan)
    with contextlib.suppress(FileNotFoundError):
        (directory / "status.json").unlink()
    # Only a defect writes here: all three programs have logs of their own.
    output = os.open(str(directory / "output.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        done = subprocess.run(
            [*command, "supervise", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=daemon_environment(),
            cwd="/",
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(output)
    if done.returncode != 0:
        raise _gone(directory)


def _wait_until_ready(directory: Path) -> None:
    lock = Lock(directory / "lock")
    deadline = time.monotonic() + START_SECONDS
    while True:
        running = lock.owner() is not None
        # Read after the lock: what ended in between has written its last word.
        state = read_json(directory / "status.json") or {}
        if running and state.get("state") == "ready":
            return
        if not running:
            raise _failed(directory, state) if state.get("state") == "failed" else _gone(directory)
        if time.monotonic() > deadline:
            fix = "it goes on: ask again with inv server-status"
            raise Refusal(f"not ready after {START_SECONDS:g} s", where=str(directory), why=str(state), fix=fix)
        time.sleep(0.02)


def _gone(directory: Path) -> Refusal:
    """Explain a supervisor that ended without a word."""
    space = os.statvfs(str(directory))
    if space.f_bavail * space.f_frsize < LEAST_SPACE:
        why = os.strerror(errno.ENOSPC)
        return Refusal("the server cannot start", where=str(directory), why=why, fix=FREE_SPACE, code="disk-full")
    why = last_lines(directory / "output.log") or last_lines(directory / "supervisor.log")
    return Refusal("the server ended while it started", where=str(directory), why=why)


def _failed(directory: Path, state: Mapping[str, Any]) -> Refusal:
    why = str(state.get("why", ""))
    if "No space left" in why:
        return Refusal("the server cannot start", where=str(directory), why=why, fix=FREE_SPACE, code="disk-full")
    if state.get("data_fault"):
        data = next(iter(sorted((directory / DATA).glob("**/*.manifest"))), directory / DATA)
        fix = (
            f"nothing was changed; see where it is broken with: {directory}/bin/valkey-check-aof {data}"
            " (copy the folder data first, then --fix cuts the file there), or start anew: inv stop-server --forget"
        )
        return Refusal("Valkey cannot read its data", where=str(data), why=why, fix=fix, code="data")
    return Refusal("Valkey does not start", where=str(directory / "valkey.log"), why=why, code="valkey")


def status(request: Mapping[str, Any]) -> Reply:
    """Tell whether the server runs, and how it is."""
    directory = directory_of(request)
    plan = read_json(directory / "server.json") or {}
    state = read_json(directory / "status.json") or {}
    running = Lock(directory / "lock").owner() is not None and not _orphaned(directory)
    reply: Reply = {
        "running": running,
        "state": state.get("state", "starting") if running else "stopped",
        "directory": str(directory),
        "socket": plan.get("socket", ""),
        "program": plan.get("program_version", ""),
        "zipapp": Path(plan["command"][-1]).name if plan.get("command") else "",
        "data_bytes": size_of(directory / DATA),
    }
    if not running:
        return reply
    reply["why"] = "; ".join(filter(None, [state.get("why", ""), *plan.get("notes", ())]))
    reply["links"] = (read_json(directory / "links.json") or {}).get("links", {})
    reply["uptime_seconds"] = time.monotonic() - state.get("started_monotonic", time.monotonic())
    for name in ("supervisor", "valkey", "keeper", "valkey_restarts", "keeper_restarts"):
        reply[name] = state.get(name)
    if state.get("state") == "ready":
        reply.update(_ask_valkey(plan["socket"], passwords_in(directory)["controller"]))
    return reply


def clients(request: Mapping[str, Any]) -> Reply:
    """Change which clients the keeper has links to, and return the labels of all.

    Takes ``add`` (label to record: see ``keeper_link.link_argv``; ``host_key`` is a line for known_hosts, where the
    record brings one) and ``remove`` (labels).
    """
    directory = directory_of(request)
    if not directory.is_dir() and not request.get("add"):
        return {"clients": []}
    private_directory(directory)
    with locked(directory / "clients.lock", wait=30.0):
        known = dict((read_json(directory / "clients.json") or {}).get("clients", {}))
        for label in request.get("remove", ()):
            known.pop(label, None)
        for label, record in request.get("add", {}).items():
            if not valid_record(record):
                raise Refusal("the record of a client is not valid", where=str(label))
            known[label] = record
        keys = [f"{known[label]['host_key']}\n" for label in sorted(known) if known[label].get("host_key")]
        # Before the record that needs it.
        write_atomically(directory / "known_hosts", "".join(keys).encode())
        write_json(directory / "clients.json", {"version": VERSION, "clients": known})
    return {"clients": sorted(known)}


def _ask_valkey(socket_path: str, password: str) -> Reply:
    # 60 ms to import, and only this needs it.
    import redis

    client = redis.Redis(
        unix_socket_path=socket_path, username="controller", password=password, socket_timeout=5, lib_name=None
    )
    try:
        info: Any = client.info()
    except redis.RedisError as error:
        return {"state": "not answering", "why": str(error)}
    finally:
        client.close()  # type: ignore[no-untyped-call]  # redis-py has types for a part only
    reply: Reply = {}
    if info["aof_last_write_status"] != "ok":
        # It answers, and takes no task and no result until it can write again.
        reply = {"state": "cannot write", "why": "Valkey cannot write its data; is the disk full?"}
    return {
        **reply,
        "memory_bytes": info["used_memory"],
        "connections": info["connected_clients"],
        "aof": {
            "enabled": bool(info["aof_enabled"]),
            "last_write": info["aof_last_write_status"],
            "last_rewrite": info["aof_last_bgrewrite_status"],
            "size_bytes": info.get("aof_current_size", 0),
            "waits_for_disk": bool(info.get("aof_pending_bio_fsync", 0)),
        },
    }


def stop(request: Mapping[str, Any]) -> Reply:
    """Stop the server in order; with ``forget`` remove its data too."""
    directory = directory_of(request)
    reply: Reply = {"stopped": False, "forgotten": False, "directory": str(directory), "data_bytes": 0, "clients": 0}
    if not directory.is_dir():
        return reply
    with locked(directory / "start.lock", wait=STOP_SECONDS):
        reply["stopped"] = _stop(directory)
        reply["data_bytes"] = size_of(directory / DATA)
        reply["clients"] = len((read_json(directory / "clients.json") or {}).get("clients", {}))
        if request.get("forget"):
            if upstream := read_json(directory / "upstream.json"):
                door.forget(str(upstream["url"]), str(request["cluster"]))
            forget(directory)
            reply["forgotten"] = True
    return reply


def _stop(directory: Path) -> bool:
    lock = Lock(directory / "lock")
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while True:
        owner = lock.owner()
        if owner is None:
            return asked
        if _orphaned(directory):
            _end_orphan(directory)
            asked = True
        elif owner and not asked:
            # Suspended, it would not hear of it.
            for number in (signal.SIGTERM, signal.SIGCONT):
                send(owner, number)
            asked = True
        if time.monotonic() > deadline:
            raise Refusal(f"the server has not ended within {STOP_SECONDS:g} s", where=str(directory))
        time.sleep(0.02)


def _orphaned(directory: Path) -> bool:
    """Tell whether the supervisor is gone, and Valkey, which inherited its lock, is ending or stuck."""
    owner = Lock(directory / "lock").owner()
    if not owner:
        return False
    found = process(owner)
    return found is None or found.state == "Z"


def _stopping(directory: Path) -> bool:
    running = Lock(directory / "lock").owner() is not None
    return running and (read_json(directory / "status.json") or {}).get("state") == "stopping"


def _end_orphan(directory: Path) -> None:
    pid = (read_json(directory / "status.json") or {}).get("valkey")
    with contextlib.suppress(OSError, TypeError):
        # A pid may have been given to somebody else: ours works in our folder.
        if os.readlink(f"/proc/{pid}/cwd") == str((directory / DATA).resolve()):
            os.kill(int(pid), signal.SIGTERM)  # type: ignore[arg-type]  # a TypeError is what is caught
            os.kill(int(pid), signal.SIGCONT)  # type: ignore[arg-type]


VERBS: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
    "start": start,
    "stop": stop,
    "status": status,
    "clients": clients,
}


def handle(request: Mapping[str, Any]) -> Reply:
    """Do what a request asks for; never raises for what the machine or the user may have done wrong."""
    try:
        return {"ok": VERBS[request["verb"]](request)}
    except Refusal as refusal:
        return {"refused": refusal.fields}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fields = {
            "what": "the disk is full" if full else "cannot do it",
            "where": str(error.filename or ""),
            "why": error.strerror or str(error),
            "fix": FREE_SPACE if full else "",
            "code": "disk-full" if full else "error",
        }
        return {"refused": fields}


def main(arguments: list[str]) -> int:
    """Answer one request from standard input; with ``access DIRECTORY`` say how to log in, and stay until its end."""
    if arguments[1:2] == ["access"]:
        directory = Path(arguments[2])
        running = Lock(directory / "lock").owner() is not None
        answer: Reply = {"passwords": passwords_in(directory) if directory.is_dir() else {}, "running": running}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        return 0
    request = json.loads(sys.stdin.buffer.read())
    # The program that runs is the one to keep.
    request.setdefault("zipapp", os.path.abspath(sys.argv[0]))
    sys.stdout.write(json.dumps(handle(request)) + "\n")
    return 0
