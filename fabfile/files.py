"""Bring files to the hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from roomful.errors import InputError

from ._fanout import begin, finish, turn
from ._step import step

if TYPE_CHECKING:
    from roomful.clean import Cleaned
    from roomful.deploy import Deployed
    from roomful.folders import Folders
    from roomful.hosts import Host
    from roomful.outcome import Outcome


@step(
    extra="source",
    help={
        "source": "folder, whose content is deployed, or one file (default: resources/)",
        "dest": "folder in the workdir to deploy into (default: the workdir itself)",
        "delete": "remove what was deployed before and SOURCE does not have; tasks' own files always stay",
        "exclude": "patterns of files to leave out, as rsync has them, several with commas: '*.o,/data'",
        "exclude_hosts": "hosts to leave out, written as for --hosts",
        "replace": "move aside what is in the way there and was not deployed",
        "relay": "auto: much to many hosts goes up once, and from host to host over SSH; chain: always; off: never; "
        "direct: from host to host UNENCRYPTED over TCP, for networks that you trust",
    },
)
def deploy(
    c: Context,
    source: str = "",
    dest: str = "",
    hosts: str = "",
    delete: bool = False,
    exclude: str = "",
    exclude_hosts: str = "",
    replace: bool = False,
    relay: str = "auto",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Files: bring code and data to the hosts, atomically on each.

    A deployment that is cut leaves the old version in place. Only what changed is sent; the version before stays on
    the disk for tasks that are running; where everything is current already, nothing is done.

    More than 50 MB to more than 3 hosts is relayed: sent once to the first, which passes it on while it comes.
    Hosts must be able to log in on each other with keys of their own; those that cannot get theirs from here.
    With --relay direct no such keys are needed and it is faster, but everyone on the hosts' network can read what
    is deployed. Hosts prove to each other who they are, and every file is verified. auto and chain never do that.

    Example:
        inv deploy --hosts n7
        inv deploy ~/experiment/src --dest code --exclude '*.o,data/' --hosts n7
        inv deploy ~/public-data --dest data --relay direct --hosts rack
    """
    from roomful import progress, report
    from roomful.deploy import Deployment, default_source, place_of
    from roomful.deploy import deploy as deploy_to
    from roomful.relay import check_mode

    mode = check_mode(relay)
    settings, chosen = begin(c, hosts, exclude_hosts, max_failed, accept_new_host_keys=accept_new_host_keys)
    patterns = tuple(pattern for pattern in exclude.split(",") if pattern)
    folder = Path(source).expanduser() if source else default_source(settings)
    deployment = Deployment(folder, dest, delete, replace, patterns, mode)
    with turn(place_of(dest), chosen, settings), progress.fleet("deploy", len(chosen)) as shown:
        # Only where somebody looks does rsync count aloud.
        on_bytes = shown.on_bytes if sys.stderr.isatty() else None
        outcomes = deploy_to(chosen, settings, deployment, shown.on_outcome, _print_note, on_bytes)
    for outcome in outcomes.ok:
        for note in outcome.value.notes if outcome.value else ():
            # It names files there.
            print(f"{outcome.host.label}: {report.printable(note)}", file=sys.stderr)
    finish(outcomes, json=json, max_failed=max_failed, columns=_deployed_json if json else _deployed_cells)


def _print_note(note: str) -> None:
    print(note, file=sys.stderr)


def _deployed_cells(outcome: Outcome[Deployed]) -> dict[str, Any]:
    from roomful import report

    value = outcome.value
    if value is None:
        return {"result": "", "sent": ""}
    result = f"{value.result} with {value.shared_with}" if value.shared_with else value.result
    return {"result": result, "sent": report.size(value.bytes_sent) if value.bytes_sent else "-"}


def _deployed_json(outcome: Outcome[Deployed]) -> dict[str, Any]:
    value = outcome.value
    if value is None:
        return {}
    names = ("result", "bytes_sent", "files_sent", "shared_with", "notes")
    return {name: getattr(value, name) for name in names}


@step(
    extra="paths",
    help={
        "paths": "folders, relative to the workdir; those above them are made too",
        "mode": "permissions of each folder that is named or made, in octal, such as 750 (default: the umask's)",
    },
)
def create_folders(
    c: Context,
    paths: list[str],
    hosts: str = "",
    mode: str = "",
    exclude: str = "",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Files: make folders in the workdir of every host.

    Example:
        inv create-folders out logs/errors --hosts n7 --mode 750
    """
    from roomful import progress
    from roomful.folders import create_folders as create
    from roomful.folders import parse_mode

    checked_mode = parse_mode(mode)
    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    with progress.hosts("create folders", len(chosen)) as on_outcome:
        outcomes = create(chosen, settings, paths, checked_mode, on_outcome)
    finish(outcomes, json=json, max_failed=max_failed, columns=_folders_json if json else _folders_cells)


def _folders_cells(outcome: Outcome[Folders]) -> dict[str, Any]:
    value = outcome.value
    return {"created": " ".join(value.created) if value else "", "exists": " ".join(value.existed) if value else ""}


def _folders_json(outcome: Outcome[Folders]) -> dict[str, Any]:
    return {"created": outcome.value.created, "existed": outcome.value.existed} if outcome.value else {}


@step(
    help={
        "workdir": "remove the whole workdir too, with all that tasks wrote into it; asks first",
        "yes": "do not ask",
    }
)
def clean(
    c: Context,
    hosts: str = "",
    workdir: bool = False,
    yes: bool = False,
    exclude: str = "",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Files: remove from the hosts what Roomful put there, and say what; what tasks wrote stays.

    Where an agent runs nothing is removed: stop it first. Files that tasks wrote into deployed folders stay at their
    place.

    Example:
        inv stop-clients --hosts n7 clean --hosts n7
        inv clean --hosts n7 --workdir --yes
    """
    from roomful import progress, report
    from roomful.clean import clean as clean_up
    from roomful.turns import EVERYWHERE

    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    if workdir and not yes:
        _ask_about_workdir(settings.workdir, len(chosen))
    with turn(EVERYWHERE, chosen, settings), progress.hosts("clean", len(chosen)) as on_outcome:
        outcomes = clean_up(chosen, settings, workdir, on_outcome)
    removed: dict[str, list[Host]] = {}
    for outcome in outcomes.ok:
        if outcome.value and outcome.value.removed:
            value = outcome.value
            names = f"{', '.join(value.removed[:5])}{', ...' if len(value.removed) > 5 else ''}"
            amount = f"{value.files} {'file' if value.files == 1 else 'files'}, {report.size(value.bytes)}"
            removed.setdefault(f"removed {names} ({amount})", []).append(outcome.host)
    # Most hosts had the same.
    for what, owners in removed.items():
        print(f"{report.host_spec(owners)}: {report.printable(what)}", file=sys.stderr)
    finish(outcomes, json=json, max_failed=max_failed, columns=_cleaned_json if json else _cleaned_cells)


def _ask_about_workdir(workdir: str, count: int) -> None:
    """Go on after a yes; raises InputError where nobody can be asked."""
    what = f"{workdir} with all in it will be removed from {count} {'host' if count == 1 else 'hosts'}"
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise InputError(what, fix="if that is right: add --yes")
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Exit("inv clean: nothing was removed", code=1)


def _cleaned_cells(outcome: Outcome[Cleaned]) -> dict[str, Any]:
    value = outcome.value
    if value is None:
        return {"result": "", "files": "", "agent's folder": "", "left there": ""}
    result = f"{value.result} with {value.shared_with}" if value.shared_with else value.result
    left = [f"{value.rescued} {'file' if value.rescued == 1 else 'files'} of tasks"] if value.rescued else []
    left += value.left
    left += [f"{value.outputs} {'output' if value.outputs == 1 else 'outputs'} to collect"] if value.outputs else []
    return {"result": result, "files": value.files, "agent's folder": value.folder, "left there": ", ".join(left)}


def _cleaned_json(outcome: Outcome[Cleaned]) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(outcome.value) if outcome.value else {}
