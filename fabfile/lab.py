"""The lab: a roomful of real SSH hosts on this machine, to try things on and to test with."""

from __future__ import annotations

import dataclasses
import json as json_module
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from invoke import Context

from roomful.errors import InputError

from ._fanout import print_table
from ._step import settings_of, step

T = TypeVar("T")
NAME_HELP = {"name": "the lab's name; several labs can be up at once"}


@step(
    help={
        "count": "how many hosts: lab01, lab02, ...",
        "name": "the lab's name: its host list is host_lists/NAME.txt, its hosts' domain NAME.test",
        "shared-home": "one home on all hosts, as over NFS",
        "cpus": "CPUs that each host may use: 0.5, 2",
        "memory": "memory that each host may use: 512MB, 1GiB",
        "disk": "size of each host's disk (home, /tmp, /var/tmp): 64MB; else it is this machine's",
        "off": "hosts that are switched off, with commas: lab03,lab05",
        "refuse-key": "hosts that do not let the lab's key in",
        "uplink": "rate of the controller's link, each way: 200mbit",
        "user": "account to log in with: student (default) or root",
        "rootless": "no namespaces, only user-mode SSH servers on 127.x addresses; always so unless you are root",
        "subnet": "the hosts' network; default: a free 10.83.X.0/24 (rootless: 127.83.X.0/24)",
        "password": "password of the user, for trying inv authorize; default: none lets anybody in",
        "max-startups": "sshd's limit of connections that have not logged in, as in sshd_config",
        "force": "take a lab of this name with other options down first",
        "json": "print one JSON document instead of text",
    }
)
def up(
    c: Context,
    count: int = 4,
    name: str = "lab",
    shared_home: bool = False,
    cpus: str = "",
    memory: str = "",
    disk: str = "",
    off: str = "",
    refuse_key: str = "",
    uplink: str = "",
    user: str = "",
    rootless: bool = False,
    subnet: str = "",
    password: str = "",
    max_startups: str = "",
    force: bool = False,
    json: bool = False,
) -> None:
    """Lab: bring up hosts with real SSH servers on this machine.

    Example:
        inv lab.up --count 8
        inv lab.up --count 4 --cpus 0.5 --memory 512MB --off lab03 --refuse-key lab04
        inv filter --hosts lab
    """
    from roomful import lab, progress
    from roomful.lab.network import parse_rate
    from roomful.units import parse_cpus, parse_size

    settings = settings_of(c)
    options = lab.LabOptions(
        count=count,
        name=name,
        shared_home=shared_home,
        cpus=_parsed("--cpus", cpus, parse_cpus),
        memory=_parsed("--memory", memory, parse_size),
        disk=_parsed("--disk", disk, parse_size),
        off=_names(off),
        refuse_key=_names(refuse_key),
        uplink=_parsed("--uplink", uplink, parse_rate),
        user=user,
        rootless=True if rootless else None,
        subnet=subnet,
        password=password,
        host_list=str(settings.path(settings.host_lists).absolute() / f"{name}.txt"),
    )
    if max_startups:
        options = dataclasses.replace(options, max_startups=max_startups)
    begin = time.monotonic()
    with progress.bar(f"lab {name!r}", count, "hosts") as report:
        found = lab.up(options, force=force, progress=lambda what, done, total: report(done, total, what))
    if json:
        print(json_module.dumps(found.as_json(), indent=2))
        return
    first, last = found.hosts[0].name, found.hosts[-1].name
    took = f"{time.monotonic() - begin:.1f} s" if found.fresh else "already"
    print(f"lab {name!r} is up ({took}): {count} hosts, {first} to {last}, in {found.subnet}, user {found.user}")
    for host in found.hosts:
        if host.faults:
            print(f"  {host.name}: {', '.join(host.faults)}")
    print(f"host list: {os.path.relpath(found.options.host_list)}")
    print(f"try it:    inv filter --hosts {name}")


@step(help=NAME_HELP)
def down(c: Context, name: str = "lab") -> None:
    """Lab: remove a lab and every trace of it.

    Example:
        inv lab.down
        inv lab.down --name second
    """
    from roomful import lab

    if lab.down(name):
        print(f"lab {name!r} is down", file=sys.stderr)
    else:
        print(f"there is no lab {name!r}: nothing to do", file=sys.stderr)


@step(
    extra="targets",
    help={
        "targets": "the hosts: lab01 lab02",
        "how": "poweroff, cut, cut-in, cut-out, freeze, sshd, hang, hang-home, disk-full, refuse-key or host-key",
        **NAME_HELP,
    },
)
def fail(c: Context, targets: list[str], how: str = "poweroff", name: str = "lab") -> None:
    """Lab: break hosts on purpose.

    Example:
        inv lab.fail lab03
        inv lab.fail lab01 lab02 --how cut
    """
    from roomful import lab

    for target in _some(targets):
        host = lab.fail(name, target, how)
        print(f"{host.name}: {lab.FAULTS[how]}", file=sys.stderr)


@step(extra="targets", help={"targets": "the hosts: lab01 lab02", **NAME_HELP})
def heal(c: Context, targets: list[str], name: str = "lab") -> None:
    """Lab: mend hosts, whatever was broken.

    Example:
        inv lab.heal lab03
        inv lab.heal lab01 lab02
    """
    from roomful import lab

    for target in _some(targets):
        host = lab.heal(name, target)
        print(f"{host.name}: answers again", file=sys.stderr)


@step(name="list")
def list_labs(c: Context, json: bool = False) -> None:
    """Lab: show the labs that are up, and what is broken in them.

    Example:
        inv lab.list
        inv lab.list --json
    """
    from roomful import lab

    found, unfinished = lab.labs(), lab.unfinished()
    if json:
        print(json_module.dumps({"labs": [item.as_json() for item in found], "unfinished": unfinished}, indent=2))
        return
    rows = [
        [item.name, "rootless" if item.rootless else "namespaces", len(item.hosts), item.subnet, _broken(item)]
        for item in found
    ]
    print_table(rows, ["lab", "kind", "hosts", "network", "broken"])
    for name in unfinished:
        print(f"lab {name!r} is starting, or its start was interrupted: inv lab.down --name {name}", file=sys.stderr)


def _broken(found: Any) -> str:
    broken = [f"{host.name}: {', '.join(host.faults)}" for host in found.hosts if host.faults]
    return "; ".join(broken)


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({word.strip() for word in text.split(",")} - {""}))


def _some(targets: list[str]) -> list[str]:
    names = [name for word in targets for name in _names(word)]
    if not names:
        raise InputError("no host given", fix="write one or more, such as lab01")
    return names


def _parsed(flag: str, text: str, parse: Callable[[str], T]) -> T | None:
    if not text:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(str(error), where=flag) from None
