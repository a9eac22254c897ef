"""Bring a lab up and down, and find the ones that are up."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import pwd
import shutil
import sys
from pathlib import Path

from roomful.errors import InputError, RoomfulError
from roomful.hosts import write_host_list
from roomful.lab import namespaces, rootless, sshd, store
from roomful.lab.machines import Machines, Progress
from roomful.lab.model import LAB_NAME, Lab, LabOptions, make_hosts
from roomful.lab.store import Record

SSH_PORT = 22


def up(options: LabOptions, progress: Progress | None = None, force: bool = False) -> Lab:
    """Bring a lab up; one that is up already with the same options is left as it is.

    What an earlier start that was killed left behind is removed first; a start that fails leaves nothing. ``force``
    takes a lab with other options down first.

    Raises InputError for options that cannot be, or that differ from those of the running lab of this name.
    """
    if sys.platform != "linux":
        raise RoomfulError("the lab needs Linux", why=f"this is {sys.platform}")
    options = options.checked(os.geteuid(), _account())
    base = store.base_directory(bool(options.rootless))
    directory = base / options.name
    _refuse_other_kind(options)
    with store.locked(base, options.name):
        record = store.read_record(directory)
        if record and record.stage == "up":
            differing = _differences(record.options, options)
            if not differing:
                lab = record.lab(directory)
                _write_list(lab)
                return lab
            if not force:
                fix = f"inv lab.down --name {options.name} first, or give --force"
                raise InputError(f"the lab {options.name!r} is up with another {' and '.join(differing)}", fix=fix)
        _refuse_foreign_list(options)
        _teardown(base, options.name)
        try:
            return _build(options, base, directory, progress or (lambda *_: None))
        except BaseException:
            _teardown(base, options.name)
            raise


def down(name: str) -> bool:
    """Remove a lab and everything of it; False where there is none.

    Works from the name alone, so also after a start or a stop that was killed at any moment.
    """
    if not LAB_NAME.fullmatch(name):
        raise InputError(f"bad lab name {name!r}", where="--name")
    found = False
    for base in store.bases():
        if (base / name).exists() or (base == store.base_directory(rootless=False) and namespaces.traces(name)):
            found = True
            with store.locked(base, name):
                _teardown(base, name)
    return found


def labs() -> list[Lab]:
    """Return the labs of this user that are up."""
    found = []
    for directory in store.directories():
        record = store.read_record(directory)
        if record and record.stage == "up":
            found.append(record.lab(directory))
    return found


def unfinished() -> list[str]:
    """Return the names of labs whose start or stop did not get to its end, or is still going on."""
    found = []
    for directory in store.directories():
        record = store.read_record(directory)
        if record is None or record.stage != "up":
            found.append(directory.name)
    return found


def get(name: str) -> Lab:
    """Return the lab of this name.

    Raises InputError where it is not up.
    """
    running = labs()
    for lab in running:
        if lab.name == name:
            return lab
    names = ", ".join(lab.name for lab in running) or "none"
    raise InputError(f"there is no lab {name!r}", fix=f"labs that are up: {names}")


def find_by_network(network: str) -> Lab | None:
    """Return the lab whose subnet holds this network, or is held by it; None where there is none or several."""
    wanted = ipaddress.ip_network(network, strict=False)
    if wanted.version != 4:
        return None
    found = [lab for lab in labs() if lab.network.overlaps(ipaddress.IPv4Network(wanted))]
    return found[0] if len(found) == 1 else None


def machines(lab: Lab) -> Machines:
    """Return the hosts of a lab as machines."""
    return rootless.RootlessMachines(lab) if lab.rootless else namespaces.NamespaceMachines(lab)


def _build(options: LabOptions, base: Path, directory: Path, progress: Progress) -> Lab:
    is_rootless = bool(options.rootless)
    with store.locked(base, ""):
        subnet = store.free_subnet(options)
        hosts = make_hosts(options, subnet)
        port = rootless.free_port([host.address for host in hosts]) if is_rootless else SSH_PORT
        # First of all: from here on a teardown knows what to look for.
        store.write_record(directory, Record("starting", options, subnet, port))
    lab = Lab(options, directory, subnet, port, hosts)
    progress("keys", 0, len(hosts))
    for host in hosts:
        (lab.host_directory(host.name) / "etc").mkdir(parents=True)
    host_keys = [lab.host_directory(host.name) / "etc" / sshd.HOST_KEY for host in hosts]
    sshd.make_keys([lab.identity_file, *host_keys])
    for host in hosts:
        refuses = host.name in options.refuse_key
        sshd.write_authorized_keys(lab, host, accept=not refuses)
        faults = ("refuse-key",) * refuses + ("poweroff",) * (host.name in options.off)
        store.write_faults(lab.host_directory(host.name), faults)
    sshd.write_client_files(lab)
    progress("network", 0, len(hosts))
    built = machines(lab)
    built.prepare()
    built.boot([host for host in hosts if host.name not in options.off], progress)
    lab = store.with_faults(lab)
    _write_list(lab)
    store.write_record(directory, Record("up", options, subnet, port))
    return dataclasses.replace(lab, fresh=True)


def _teardown(base: Path, name: str) -> None:
    directory = base / name
    record = store.read_record(directory)
    if record:
        store.write_record(directory, dataclasses.replace(record, stage="stopping"))
        if record.options.host_list:
            _remove_host_list(Path(record.options.host_list), name)
    if base == store.base_directory(rootless=False):
        namespaces.teardown(name, directory)
    else:
        rootless.kill_hosts(directory)
    if directory.exists():
        # The record goes last, so that a teardown that is killed here can be repeated.
        for entry in directory.iterdir():
            if entry.name != store.RECORD:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree(directory)


def _write_list(lab: Lab) -> None:
    if lab.options.host_list:
        comments = (_list_mark(lab.name), f"{len(lab.hosts)} hosts in {lab.subnet}; inv lab.down removes this file.")
        write_host_list(Path(lab.options.host_list), lab.entries, comments)


def _list_mark(name: str) -> str:
    return f"The lab {name!r}, written by inv lab.up."


def _is_own_list(path: Path, name: str) -> bool:
    return path.read_text(errors="replace").startswith(f"# {_list_mark(name)}\n")


def _remove_host_list(path: Path, name: str) -> None:
    """Remove the host list that the lab wrote; one that somebody has written since stays."""
    if path.is_file() and _is_own_list(path, name):
        path.unlink()
    # What a start that was killed while it wrote the list has left: see write_text_atomically.
    for half_written in path.parent.glob(f".{path.name}.*"):
        half_written.unlink(missing_ok=True)


def _refuse_foreign_list(options: LabOptions) -> None:
    """Keep what somebody has written by hand."""
    path = Path(options.host_list)
    if options.host_list and path.exists() and not _is_own_list(path, options.name):
        raise InputError("this host list is not the lab's", where=str(path), fix="choose another --name")


def _refuse_other_kind(options: LabOptions) -> None:
    """A lab of the other kind may have the name already; two hosts lists of one name would follow."""
    other = store.base_directory(not options.rootless)
    if other in store.bases() and (other / options.name).exists():
        fix = f"inv lab.down --name {options.name} first, or choose another --name"
        raise InputError(f"the lab {options.name!r} exists and is of the other kind", fix=fix)


def _differences(running: LabOptions, wanted: LabOptions) -> list[str]:
    """Name the options that differ; a caller who wants no host list does not mind one."""
    names = [item.name for item in dataclasses.fields(LabOptions) if item.name != "host_list" or wanted.host_list]
    return [name.replace("_", " ") for name in names if getattr(running, name) != getattr(wanted, name)]


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise RoomfulError("this user has no name in the password database", why=f"uid {os.geteuid()}") from None
