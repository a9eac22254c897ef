"""The tasks that change what becomes of tasks, and how the clients behave."""

from __future__ import annotations

from invoke import Context

from ._fanout import print_table
from ._queue import (
    SELECTION_HELP,
    chosen,
    confirm,
    one_of,
    open_queue,
    print_json,
    refuse_strangers,
    say,
    tasks_text,
)
from ._step import settings_of, step


@step(
    extra="selection",
    help={"selection": SELECTION_HELP, "failed": "all failed tasks"},
)
def retry(c: Context, selection: str = "", failed: bool = False, json: bool = False) -> None:
    """Tasks: let failed and cancelled tasks run again.

    Example:
        inv retry --failed
        inv retry 5,8-9
    """
    one_of("retry", {"a selection of tasks": bool(selection), "--failed": failed})
    with open_queue(settings_of(c)) as queue:
        count = queue.retry(chosen(queue, selection) if selection else None)
    say({"retried": count}, f"{tasks_text(count)} again in the queue", json)


@step(extra="selection", help={"selection": SELECTION_HELP, "all": "all tasks that wait or run"})
def cancel(c: Context, selection: str = "", all: bool = False, json: bool = False) -> None:
    """Tasks: cancel tasks that wait or run; the processes of those that run are killed.

    Example:
        inv cancel 17
        inv cancel --all
    """
    one_of("cancel", {"a selection of tasks": bool(selection), "--all": all})
    with open_queue(settings_of(c)) as queue:
        count = queue.cancel(chosen(queue, selection) if selection else None)
    say({"cancelled": count}, f"{tasks_text(count)} cancelled", json)


@step(extra="selection", help={"selection": SELECTION_HELP, "done": "all tasks that are done"})
def forget(c: Context, selection: str = "", done: bool = False, json: bool = False) -> None:
    """Tasks: remove tasks that have ended from the queue, with what they wrote; collect first.

    Example:
        inv forget --done
    """
    one_of("forget", {"a selection of tasks": bool(selection), "--done": done})
    with open_queue(settings_of(c)) as queue:
        count = queue.forget(chosen(queue, selection) if selection else None)
    say({"forgotten": count}, f"{tasks_text(count)} forgotten", json)


@step(help={"host": "the host, as inv status shows it"})
def requeue(c: Context, host: str = "", json: bool = False) -> None:
    """Tasks: take what runs on a host and let it run elsewhere; it does not count as a failure.

    Drain the host first, or it may be the one that takes the tasks again.

    Example:
        inv drain --hosts lab03
        inv requeue --host lab03
    """
    with open_queue(settings_of(c)) as queue:
        refuse_strangers(queue, [host])
        count = queue.requeue_host(host)
    say({"requeued": count}, f"{tasks_text(count)} of {host} again in the queue", json)


@step(help={"undo": "let them take tasks again"})
def drain(c: Context, hosts: str = "", exclude: str = "", undo: bool = False, json: bool = False) -> None:
    """Tasks: let hosts finish what they run and take nothing new.

    Example:
        inv drain --hosts lab[03-04]
        inv drain --hosts lab[03-04] --undo
    """
    from roomful.hosts import resolve
    from roomful.report import host_spec

    settings = settings_of(c)
    chosen = resolve(hosts, settings, exclude)
    labels = [host.label for host in chosen]
    with open_queue(settings) as queue:
        refuse_strangers(queue, labels)
        changed = queue.drain(labels, resume=undo)
    verb = "take tasks again" if undo else "finish what they run and take nothing new"
    say({"hosts": labels, "changed": changed}, f"{host_spec(chosen)}: {verb} ({changed} changed)", json)


@step(help={"yes": "do not ask"})
def reset(c: Context, yes: bool = False, json: bool = False) -> None:
    """Tasks: remove all tasks, results and history from the queue; what runs is killed. Asks first.

    Example:
        inv reset --yes
    """
    with open_queue(settings_of(c)) as queue:
        total = queue.counts().total
        if not yes and total:
            confirm(f"remove all {tasks_text(total)} and what they wrote?")
        count = queue.reset()
    say({"removed": count}, f"{tasks_text(count)} removed", json)


@step(
    extra="settings",
    help={"settings": "NAME=VALUE, any number of them; NAME= goes back to the default; none: show them all"},
)
def clients_config(c: Context, settings: list[str], hosts: str = "", exclude: str = "", json: bool = False) -> None:
    """Tasks: show or change how the clients behave, while they run.

    Example:
        inv clients-config
        inv clients-config slots=4 memory_accept=2GiB
        inv clients-config while_idle=on --hosts n7
    """
    from roomful import clients_config as library
    from roomful.hosts import resolve

    changes = library.parse_changes(settings)
    base = settings_of(c)
    labels = [host.label for host in resolve(hosts, base, exclude)] if hosts else [""]
    with open_queue(base) as queue:
        for label in labels if changes else ():
            queue.configure(changes, host=label)
        now = library.live_settings(queue.settings())
    if json:
        keys = ("name", "kind", "default", "meaning", "values")
        print_json({"settings": [{key: getattr(setting, key) for key in keys} for setting in now]})
        return
    rows = []
    for setting in now:
        if changes and setting.name not in changes:
            continue
        of_hosts = {host: value for host, value in setting.values.items() if host}
        value = library.shown(setting, setting.values.get("", setting.default))
        some = ", ".join(f"{host}: {library.shown(setting, text)}" for host, text in of_hosts.items())
        rows.append([setting.name, value, library.shown(setting, setting.default), some, setting.meaning])
    print_table(rows, ("setting", "value", "default", "single hosts", "meaning"))
