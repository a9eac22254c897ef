"""The queue's server: start it, stop it, look at it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from ._fanout import enter_lab, print_table
from ._step import settings_of, step

if TYPE_CHECKING:
    from roomful.server import Server, ServerStatus


@step(
    help={
        "on": "host that is to be the server (the clients must let its account in); default: this machine",
        "tasks": "task file to submit when it runs",
        "json": "print its status as one JSON document",
    }
)
def start_server(c: Context, on: str = "", tasks: str = "", json: bool = False) -> None:
    """Cluster: start the task queue's server, here or on a host, unless it runs already.

    It listens on no network port, survives logout, and keeps its data over a restart. Where the setting server_url
    names a Valkey or Redis of yours, a door to that is started instead.

    Example:
        inv start-server
        inv start-server --tasks tasks.txt
        inv start-server --on node01
    """
    from roomful.server import Server, open_queue, server_host
    from roomful.submission import submit
    from roomful.taskfile import open_task_file

    settings = settings_of(c)
    if tasks:
        # A mistake in the file is told before a server is started for it.
        with open_task_file(tasks):
            pass
    server = Server(settings, server_host(on, settings)) if on else Server.of(settings)
    _enter(server)
    status, already = server.start()
    place = f" on {status.on}" if status.on else ""
    done = "already runs" if already else "started"
    print(f"the server{place} {done}: {status.program}, {status.directory}", file=sys.stderr)
    if status.why:
        print(f"note: {status.why}", file=sys.stderr)
    if already and status.outdated:
        print(
            "it runs the code of another version of Roomful; to change that: inv stop-server start-server",
            file=sys.stderr,
        )
    if json:
        _print_json(status)
    if tasks:
        with open_queue(settings) as queue:
            submission = submit(queue, tasks, settings)
        added = submission.report.added
        print(f"submitted {added} of {submission.count} tasks: {submission.added}", file=sys.stderr)
        for warning in submission.warnings:
            print(warning, file=sys.stderr)


@step(
    help={
        "forget": "remove the queue's data too: all tasks and results in it",
        "yes": "do not ask before data are removed",
    }
)
def stop_server(c: Context, forget: bool = False, yes: bool = False) -> None:
    """Cluster: stop the task queue's server; tasks and results stay on its disk.

    Example:
        inv stop-server
        inv stop-server --forget --yes
    """
    from roomful.report import size
    from roomful.server import Server

    server = Server.of(settings_of(c))
    _enter(server)
    if forget and not yes:
        _confirm(server)
    done = server.stop(forget=forget)
    place = f" on {done.on}" if done.on else ""
    print(f"the server{place} {'stopped' if done.stopped else 'did not run'}", file=sys.stderr)
    if done.clients:
        print(
            f"agents on {done.clients} clients wait for it to come back (inv stop-clients ends them)", file=sys.stderr
        )
    if done.forgotten:
        print(f"its data are removed: {done.directory}", file=sys.stderr)
    elif done.data_bytes:
        print(
            f"its data stay: {size(done.data_bytes)} in {done.directory} (inv stop-server --forget removes them)",
            file=sys.stderr,
        )


@step(help={})
def server_status(c: Context, json: bool = False) -> None:
    """Cluster: tell how the task queue's server is; exit code 1 if it does not run.

    Example:
        inv server-status
        inv server-status --json
    """
    from roomful.server import Server

    server = Server.of(settings_of(c))
    _enter(server)
    status = server.status()
    if json:
        _print_json(status)
    else:
        print_table(_rows(status), ("server", status.on or "this machine"))
    if status.state != "ready":
        raise Exit(code=1)


def _enter(server: Server) -> None:
    if server.host:
        enter_lab([server.host])


def _confirm(server: Server) -> None:
    from roomful.errors import InputError
    from roomful.report import size

    status = server.status()
    if not sys.stdin.isatty():
        raise InputError("--forget removes all tasks and results", fix="if that is meant: add --yes")
    question = f"remove all tasks and results ({size(status.data_bytes)} in {status.directory})? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Exit("nothing was done", code=1)


def _rows(status: ServerStatus) -> list[tuple[str, Any]]:
    from roomful.report import duration, size

    rows: list[tuple[str, Any]] = [("state", status.state)]
    if status.why:
        rows.append(("why", status.why))
    if status.running:
        rows += [
            ("up", duration(status.uptime_seconds)),
            ("program", status.program),
            ("pids", ", ".join(f"{name} {pid or '-'}" for name, pid in status.pids.items())),
            ("restarts", ", ".join(f"{name} {count}" for name, count in status.restarts.items())),
            ("memory", size(status.memory_bytes)),
            ("connections", status.connections),
        ]
    if status.tasks:
        rows.append(("tasks", ", ".join(f"{count} {state}" for state, count in status.tasks.items())))
    if status.links:
        up = sum(link["state"] == "up" for link in status.links.values())
        rows.append(("links", f"{up} of {len(status.links)} up"))
        rows += [
            (f"  {label}", f"{link['state']}: {link['reason']} {link['detail']}".rstrip(": "))
            for label, link in status.links.items()
            if link["state"] != "up"
        ]
    if status.aof:
        rows.append(("append-only file", f"{size(status.aof['size_bytes'])}, last write {status.aof['last_write']}"))
    rows += [("data on disk", size(status.data_bytes)), ("folder", status.directory)]
    return rows


def _print_json(status: ServerStatus) -> None:
    import dataclasses

    from roomful.report import to_json

    print(to_json(dataclasses.asdict(status)))
