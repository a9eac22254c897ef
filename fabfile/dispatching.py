"""Run commands on the least-loaded machine."""

from __future__ import annotations

import json as json_module
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING, Any

from invoke import Context

from roomful.errors import InputError, RoomfulError

from ._fanout import begin, print_table
from ._step import settings_of, step
from .running import words_after_dashes

if TYPE_CHECKING:
    from pathlib import Path

WATCH_SECONDS = 1.5


@step(help={"watch": "show it anew every 1.5 seconds, until Ctrl-C"})
def load(c: Context, hosts: str = "", exclude: str = "", watch: bool = False, json: bool = False) -> None:
    """Tasks: show how busy the hosts are, the one that would be chosen next first.

    Virtual load is what was sent there so recently that the host's own average cannot show it yet.

    Example:
        inv load --hosts n7
        inv load --hosts n7 --watch
        inv load --json
    """
    from roomful.dispatch.control import ask

    path = _dispatcher(c, hosts, exclude)
    while True:
        rows = ask(path, b"load")
        if json:
            print(json_module.dumps(rows, indent=1))
        else:
            if watch and sys.stdout.isatty():
                print("\033[H\033[2J", end="")
            print_table([_cells(row) for row in rows], HEADERS)
            _explain(rows)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)


@step(help={"max_load": "only a host with at most this load for each CPU"})
def best_host(c: Context, hosts: str = "", exclude: str = "", max_load: float = inf, json: bool = False) -> None:
    """Tasks: print the name of the host that has most to give now.

    Who asks is expected to use it: for a moment it counts as busier, so that the next one gets another.

    Example:
        inv best-host --hosts n7
        ssh $(inv best-host --hosts n7) make
    """
    from roomful.dispatch.control import ask

    path = _dispatcher(c, hosts, exclude)
    name = ask(path, b"best", [b"max-load=%r" % max_load])
    print(json_module.dumps({"host": name}) if json else name)


@step(
    help={
        "chdir": "FROM=TO: the folder FROM here is the folder TO there",
        "env": "NAME=VALUE, or NAME as it is here; several with commas",
        "sync": "bring this folder there before, and what changed there back afterwards (rsync)",
        "max_load": "take no host with more load for each CPU",
        "on": "take this host",
        "or_local": "run the command here where no host can be taken",
        "retry": "run it again on another host, at most so many times, when its host is lost",
        "verbose": "say which host was chosen",
    }
)
def dispatch(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    chdir: str = "",
    env: str = "",
    sync: bool = False,
    max_load: float = inf,
    on: str = "",
    or_local: bool = False,
    retry: int = 0,
    verbose: bool = False,
) -> None:
    """Tasks: run the command after "--" on the host that has most to give, as if it were run here.

    The same folder, streams, signals and exit code. In Makefiles use the program dsh, which starts in milliseconds.

    Example:
        inv dispatch --hosts n7 -- gcc -c foo.c
        inv dispatch --hosts n7 --retry 1 -- ./simulate --seed 7
        make -j8 CC="dsh gcc"
    """
    from roomful.dispatch.client import client_argv

    command = words_after_dashes()
    if not command:
        raise InputError("no command given", fix="write it after --, such as: inv dispatch -- gcc -c foo.c")
    path = _dispatcher(c, hosts, exclude)
    words = ["--socket", str(path)]
    for name, value in (("--chdir", chdir), ("--on", on), ("--retry", retry)):
        words += [name, str(value)] if value else []
    words += ["--max-load", str(max_load)]
    for entry in filter(None, env.split(",")):
        words += ["--env", entry]
    words += ["--sync"] * sync + ["--or-local"] * or_local + ["-v"] * verbose
    sys.stdout.flush()
    # dsh takes our place, so that it has our streams, signals and parent.
    os.execv(sys.executable, client_argv(*words, "--", *command))


@step(
    help={
        "score": "module:function that evaluates a host (roomful.dispatch.load.HostLoad): the lowest number wins",
        "idle": "seconds without work after which it ends (3600)",
        "quiet": "say nothing where all is well",
    }
)
def start_dispatcher(
    c: Context, hosts: str = "", exclude: str = "", score: str = "", idle: float = 0.0, quiet: bool = False
) -> None:
    """Tasks: start the daemon that keeps warm connections for dsh, and make it the one that dsh uses.

    dsh and the other tasks start it themselves when they need it; without --hosts with the hosts of the last time.
    Hosts that cannot be used are named; the exit code is 1 if that is all of them.

    Example:
        inv start-dispatcher --hosts n7
        make -j8 CC="dsh gcc"
    """
    # 0 is what Invoke hands over where nothing was given: then the default counts.
    if not 0 <= idle < inf:
        raise InputError(f"bad time {idle:g}", where="--idle", fix="write seconds above 0")
    path = _dispatcher(c, hosts, exclude, score, idle, remember=True)
    if not quiet:
        from roomful.dispatch.control import ask

        print(f"the dispatcher runs (process {ask(path, b'about')['pid']})", file=sys.stderr)
        rows = ask(path, b"load")
        _explain(rows)
        if all(row["unusable"] for row in rows):
            raise RoomfulError("no host can be used yet", fix="it goes on trying; look with: inv load")


@step()
def stop_dispatcher(c: Context) -> None:
    """Tasks: end this project's dispatchers, and every command that they run.

    Example:
        inv stop-dispatcher
    """
    from roomful.dispatch.control import Control

    count = Control(settings_of(c)).stop()
    print(f"{count} ended" if count else "none runs", file=sys.stderr)


HEADERS = ("host", "load", "virtual", "running", "CPUs", "free GB", "weights", "score", "state")


def _cells(row: dict[str, Any]) -> list[Any]:
    free = "" if row["memory_free"] is None else f"{row['memory_free'] / 1e9:.1f}"
    weights = f"{row['load_weight']:g} {row['memory_weight']:g}"
    score = "" if row["score"] is None else f"{row['score']:.3f}"
    virtual = f"{row['virtual_load']:.2f}"
    return [row["host"], row["load"], virtual, row["running"], row["cpus"], free, weights, score, _state(row)]


def _state(row: dict[str, Any]) -> str:
    return str(row["unusable"]).partition(":")[0] or "ok"


def _explain(rows: list[dict[str, Any]]) -> None:
    """Say of hosts that cannot be used why, where there is more to say than their state."""
    from roomful.dispatch.choice import few
    from roomful.dispatch.pool import NOT_YET

    for row in rows:
        if row["unusable"] != _state(row) != "ok":
            print(f"{row['host']}: {row['unusable']}", file=sys.stderr)
    late = [row["host"] for row in rows if row["unusable"] == NOT_YET]
    if late:
        print(f"not waited for: {few(late)}; see what became of them with: inv load", file=sys.stderr)


def _dispatcher(
    c: Context, hosts: str, exclude: str, score: str = "", idle: float = 0.0, remember: bool = False
) -> Path:
    """Make sure that the dispatcher of these hosts runs; without any, that of the hosts it was last started with."""
    from roomful.dispatch.control import IDLE_SECONDS, Control, Wish

    call: dict[str, Any] = {"hosts": hosts, "exclude": exclude, "score": score, "idle": idle}
    control = Control(settings_of(c))
    known = control.remembered()
    if not hosts:
        call = {key: value or known.get(key, value) for key, value in call.items()}
    _, chosen = begin(c, call["hosts"], call["exclude"])
    path = control.ensure(Wish(chosen, call["score"], call["idle"] or IDLE_SECONDS))
    # The list that dsh uses may have changed since: then dsh has to follow.
    if remember or all(known.get(key) == value for key, value in call.items()) or not known:
        control.remember(path, call)
    return path
