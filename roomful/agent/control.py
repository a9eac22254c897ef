"""The agent's commands: ``agent``, ``guard``, ``stop`` and ``status``; each prints one JSON object."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from roomful.agent.config import AgentConfig
from roomful.agent.private import Lock, Refusal, private_directory, read_json, write_json
from roomful.agent.processes import descendants, send, sweep

#: What was killed is gone within this.
KILLED_SECONDS = 5.0


def main(arguments: list[str]) -> int:
    """Run one command; the exit code is 0 when what was asked for is so."""
    parser = argparse.ArgumentParser(prog="agent.pyz")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("agent", "start an agent in the background"), ("guard", "be one, in the foreground")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--config", required=True, help="its configuration, a JSON file; - for standard input")
    for name, what in (("stop", "stop an agent"), ("status", "say how it is")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--directory", required=True, help="the agent's own folder")
        if name == "stop":
            command.add_argument("--timeout", type=float, default=40.0, help="seconds until it is killed")
    options = parser.parse_args(arguments)
    try:
        if options.command == "stop":
            reply = stop(Path(os.path.expanduser(options.directory)), options.timeout)
        elif options.command == "status":
            reply = status(Path(os.path.expanduser(options.directory)))
        else:
            reply = start(options.config, foreground=options.command == "guard")
    except Refusal as refusal:
        reply = {"refused": refusal.fields}
    except (OSError, ValueError) as error:
        reply = {"refused": {"what": str(error), "where": "", "why": "", "fix": "", "code": ""}}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
    return 1 if "refused" in reply else 0


def start(source: str, foreground: bool) -> dict[str, Any]:
    """Start an agent, unless one runs: ``{"state": "started" or "running", "pid": N}``."""
    from roomful.agent.guard import Guard, detach

    text = sys.stdin.read() if source == "-" else Path(source).read_text()
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("agent configuration: not a JSON object")
    config = AgentConfig.from_mapping(document)
    home = private_directory(config.home)
    owner = Lock(home / "lock").owner()
    if owner is not None:
        return {"state": "running", "pid": owner}
    # Its own copy: the guard reads it again when it has to start over.
    kept = home / "agent.json"
    write_json(kept, config.document())

    def run() -> int:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
        guard = Guard(config, kept, about())
        return guard.run() if guard.acquire() else 3

    if foreground:
        return {"state": "ended" if run() == 0 else "running", "pid": os.getpid()}
    pid = detach(home / "agent.log", run)
    # The lock tells that it lives; it may also have lost a race with another start.
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        owner = Lock(home / "lock").owner()
        if owner:
            return {"state": "started" if owner == pid else "running", "pid": owner}
        time.sleep(0.01)
    raise Refusal("the agent did not start", where=str(home), why=last_lines(home))


def stop(home: Path, timeout: float) -> dict[str, Any]:
    """Stop the agent and all it runs: ``{"state": "stopped", "killed": N}``; ``"absent"`` if there was none."""
    lock = Lock(home / "lock")
    owner = lock.owner()
    state = "absent"
    if owner:
        state = "stopped"
        send(owner, signal.SIGTERM)
        # Suspended, it would not hear of it.
        send(owner, signal.SIGCONT)
        deadline = time.monotonic() + timeout
        while lock.owner() is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        if lock.owner() is not None:
            for pid in descendants([owner]):
                send(pid, signal.SIGKILL)
            # The kernel takes a moment to end them, longer on a busy machine; the lock is theirs until then.
            deadline = time.monotonic() + KILLED_SECONDS
            while lock.owner() is not None and time.monotonic() < deadline:
                time.sleep(0.02)
    killed = 0
    with contextlib.suppress(OSError):
        # What only the environment still ties to this agent.
        instance = (home / "instance").read_text().strip()
        killed = sweep("ROOMFUL_AGENT", instance, 5.0) if instance else 0
    return {"state": state, "killed": killed}


def status(home: Path) -> dict[str, Any]:
    """Say whether it runs, under which name it has registered, and what it logged last."""
    owner = Lock(home / "lock").owner()
    said = read_json(home / "status.json") or {}
    return {
        "state": "absent" if owner is None else "running",
        "pid": owner or 0,
        "agent": said.get("agent", "") if owner is not None else "",
        "log": last_lines(home),
    }


def last_lines(home: Path, count: int = 20) -> str:
    """Return the end of the agent's log."""
    try:
        with open(home / "agent.log", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
    except OSError:
        return ""


def about() -> dict[str, Any]:
    """Describe this program and machine, for whoever looks at the list of clients."""
    from roomful.agent import VERSION

    return {
        "version": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "node": platform.node(),
        "pid": os.getpid(),
    }
