"""Start, stop and look at the agent on the client where this runs; the controller sends requests over SSH.

A request is a JSON object on standard input with ``verb`` and what the verb takes; the reply is
``{"ok": {...}}`` or ``{"refused": {what, where, why, fix, code}}``, as for the server.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

from roomful.agent import control, host_lock
from roomful.agent.private import Lock, Refusal, read_json, write_atomically, write_json
from roomful.agent.processes import send

#: Seconds that the keeper's side has to take its link down before we do.
LINK_SECONDS = 3.0
#: A file of ours that says what was started; the agent does not need it.
STARTED = "started.json"
#: A shell program of ours that starts the agent again; the keeper has it run when the agent is dead.
REVIVE = "revive"
#: What an agent and its links leave in the folder. The spool is apart: it holds outputs that nobody has fetched yet.
OWN_PATTERNS = (
    "agent.json",
    "agent.log",
    "agent.log.1",
    "instance",
    "lock",
    "status.json",
    "valkey.sock",
    REVIVE,
    "link-*.sock",
    ".link-*.sock",
    ".*.json.*",
    ".instance.*",
    ".agent.log.*",
    STARTED,
    "roomful-*.pyz",
)

Reply = Dict[str, Any]


def start(request: Mapping[str, Any]) -> Reply:
    """Start the agent unless it runs.

    Takes ``config`` (see AgentConfig) and ``restart``. Returns ``state`` (started, running, restarted), ``pid``, and
    for one that runs ``outdated`` (other code) and ``changed`` (other settings). An agent whose password the server
    does not know any more is of no use to anyone: it is restarted in any case.
    """
    config = dict(request["config"])
    home = Path(config["directory"])
    _make_workdir(str(config["workdir"]))
    zipapp = Path(sys.argv[0]).name
    wanted = {"zipapp": zipapp, "config": {name: value for name, value in config.items() if name != "password"}}
    owner = Lock(home / "lock").owner()
    restarted = False
    if owner is not None:
        known = read_json(home / STARTED) or {}
        stranded = (read_json(home / "agent.json") or {}).get("password") != config.get("password")
        if not (request.get("restart") or stranded):
            outdated, changed = known.get("zipapp") != zipapp, known.get("config") != wanted["config"]
            return {"state": "running", "pid": owner, "outdated": outdated, "changed": changed}
        control.stop(home, 20.0)
        restarted = True
    write_json(home / STARTED, wanted)
    again = [sys.executable, "-I", "-S", os.path.abspath(sys.argv[0]), "agent", "--config", str(home / "agent.json")]
    write_atomically(home / REVIVE, f"exec {shlex.join(again)}\n".encode())
    for old in home.glob("roomful-*.pyz"):
        if old.name != zipapp:
            old.unlink()
    sys.stdin = io.StringIO(json.dumps(config))
    reply = control.start("-", foreground=False)
    if restarted and reply["state"] == "started":
        reply["state"] = "restarted"
    return {"outdated": False, "changed": False, **reply}


def _make_workdir(path: str) -> None:
    """Make the folder that tasks run in: without it an agent could only die and be started again."""
    folder = os.path.abspath(os.path.expanduser(path))
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        code = {errno.ENOSPC: "disk-full", errno.EDQUOT: "quota"}.get(error.errno or 0, "error")
        raise Refusal("no workdir", where=folder, why=error.strerror or str(error), code=code) from error


def stop(request: Mapping[str, Any]) -> Reply:
    """Stop the agent and its tasks: takes ``directory`` and ``seconds`` (0: at once, by force)."""
    with contextlib.suppress(FileNotFoundError):
        (Path(request["directory"]) / REVIVE).unlink()
    return control.stop(Path(request["directory"]), float(request["seconds"]))


def status(request: Mapping[str, Any]) -> Reply:
    """Say how the agent in ``directory`` is, with the end of its log."""
    return control.status(Path(request["directory"]))


def clean(request: Mapping[str, Any]) -> Reply:
    """Remove what is left of an agent that has been stopped, and check that no process of it is.

    Takes ``directory`` and ``forget`` (outputs in the spool too). Returns ``kept`` (files of the spool that stay) and
    ``left`` (pids that could not be ended).
    """
    home = Path(request["directory"])
    if Lock(home / "lock").owner() is not None:
        raise Refusal("the agent still runs", where=str(home))
    _end(home, LINK_SECONDS)
    left = ours(home)
    spool = home / "spool"
    kept = sum(1 for path in spool.rglob("*") if path.is_file()) if spool.is_dir() else 0
    if spool.is_dir() and (request.get("forget") or not kept):
        shutil.rmtree(str(spool))
        kept = 0
    # Not by glob(): it does not see links whose target has gone.
    for name in os.listdir(str(home)):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in OWN_PATTERNS):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                (home / name).unlink()
    folder = home
    with contextlib.suppress(OSError):
        # Up to roomful-UID, each only if nothing else is in it.
        while True:
            folder.rmdir()
            if f"roomful-{os.getuid()}" not in folder.parent.parts:
                break
            folder = folder.parent
    return {"kept": kept, "left": left}


def _end(home: Path, seconds: float) -> None:
    """Wait until no process of this folder is left; end what remains after that."""
    for number, pause in ((0, seconds), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + pause
        for pid in ours(home):
            send(pid, number)
        while ours(home) and time.monotonic() < deadline:
            time.sleep(0.05)


def ours(home: Path) -> list[int]:
    """List the processes that belong to this folder, by their arguments: agents, and the shells at links' ends."""
    folder = os.fsencode(home)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        link = b"roomful-link" in words and folder in words
        agent = any(word.startswith(folder + b"/roomful-") and word.endswith(b".pyz") for word in words)
        if link or agent:
            found.append(int(name))
    return found


def holder(request: Mapping[str, Any]) -> Reply:
    """Say who has locked this machine by the file ``path``: ``holder`` is empty where nobody has."""
    return {"holder": host_lock.holder(str(request["path"]))}


VERBS: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
    "start": start,
    "stop": stop,
    "status": status,
    "clean": clean,
    "holder": holder,
}


def main(arguments: list[str]) -> int:
    """Answer one request from standard input."""
    del arguments
    request = json.loads(sys.stdin.buffer.read())
    try:
        reply: Reply = {"ok": VERBS[request["verb"]](request)}
    except Refusal as refusal:
        reply = {"refused": refusal.fields}
    except (OSError, ValueError) as error:
        code = "disk-full" if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else ""
        where = str(getattr(error, "filename", "") or "")
        fields = {"what": getattr(error, "strerror", "") or str(error), "where": where, "why": "", "fix": ""}
        reply = {"refused": {**fields, "code": code}}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
    return 0
