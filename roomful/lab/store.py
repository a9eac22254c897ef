"""The labs' folder on this machine: who holds which name, which network, and the record that teardown works from."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import ipaddress
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful.errors import RoomfulError
from roomful.hosts import write_text_atomically
from roomful.lab.model import Lab, LabHost, LabOptions, candidate_subnets, make_hosts

#: Layout of lab.json; one that we do not know is only ever torn down, never used.
VERSION = 1
RECORD = "lab.json"
FAULTS = "faults.json"


def base_directory(rootless: bool) -> Path:
    """Return the folder of all labs of this kind and user."""
    return Path(f"/tmp/roomful-labs-{os.geteuid()}") if rootless else Path("/run/roomful-labs")


def bases() -> list[Path]:
    """Return the folders that may hold labs of this user."""
    own = base_directory(rootless=True)
    return [base_directory(rootless=False), own] if os.geteuid() == 0 else [own]


def open_base(base: Path) -> None:
    """Create the folder, or make sure that it is ours alone.

    Raises RoomfulError where someone else got there first: in /tmp anybody can make that name. Raises
    FileNotFoundError where it was removed meanwhile, by the last lab to go.
    """
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    if not _is_ours(base):
        fix = f"have it removed, or made yours with mode 700: {base}"
        raise RoomfulError("the labs' folder is not safe to use", where=str(base), fix=fix)


def _is_ours(base: Path) -> bool:
    found = base.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


@contextlib.contextmanager
def locked(base: Path, name: str) -> Iterator[None]:
    """Hold the lock of one lab (or, with the name ``""``, of the choice of networks).

    The lock is the kernel's: it ends with its holder, however that dies. The file goes when the holder is done, so
    that nothing is left; whoever waited on a file that is gone meanwhile tries again.
    """
    path = base / f".lock-{name}"
    while True:
        try:
            open_base(base)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            current = os.stat(path)
            if os.path.samestat(current, os.fstat(handle)):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(handle)
        with contextlib.suppress(OSError):
            base.rmdir()


@dataclass(frozen=True)
class Record:
    """What is written about a lab before anything of it exists. ``stage``: starting, up or stopping."""

    stage: str
    options: LabOptions
    subnet: str
    port: int

    def lab(self, directory: Path) -> Lab:
        """Return the lab this record describes, with the faults of its hosts as they are now."""
        hosts = tuple(
            dataclasses.replace(host, faults=read_faults(directory / "hosts" / host.name))
            for host in make_hosts(self.options, self.subnet)
        )
        return Lab(self.options, directory, self.subnet, self.port, hosts)


def write_record(directory: Path, record: Record) -> None:
    """Write a lab's record, atomically."""
    values: dict[str, Any] = {
        "version": VERSION,
        "stage": record.stage,
        "options": record.options.as_json(),
        "subnet": record.subnet,
        "port": record.port,
    }
    directory.mkdir(mode=0o700, exist_ok=True)
    write_text_atomically(directory / RECORD, json.dumps(values, indent=1) + "\n", mode=0o600)


def read_record(directory: Path) -> Record | None:
    """Read a lab's record; None where there is none that can be read (its lab never came up)."""
    try:
        values = json.loads((directory / RECORD).read_text())
        if values["version"] != VERSION:
            return None
        options = LabOptions.from_json(values["options"])
        return Record(values["stage"], options, values["subnet"], values["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def directories() -> Iterator[Path]:
    """Every lab's folder of this user, complete or not."""
    for base in bases():
        with contextlib.suppress(FileNotFoundError):
            if _is_ours(base):
                yield from sorted(path for path in base.iterdir() if path.is_dir())


def free_subnet(options: LabOptions) -> str:
    """Return a network that no other lab has. Call it with the lock of the networks held.

    Raises RoomfulError where all are taken.
    """
    taken = {record.subnet: path.name for path in directories() if (record := read_record(path))}
    networks = {ipaddress.IPv4Network(subnet): name for subnet, name in taken.items()}
    for subnet in [options.subnet] if options.subnet else candidate_subnets(options.count, bool(options.rootless)):
        network = ipaddress.IPv4Network(subnet)
        clash = next((name for other, name in networks.items() if other.overlaps(network)), None)
        if clash is None:
            return subnet
        if options.subnet:
            raise RoomfulError(f"{subnet} is taken by the lab {clash!r}", where="--subnet", fix="choose another")
    raise RoomfulError("every network for labs is taken", fix="see inv lab.list, and inv lab.down --name NAME")


def read_faults(host_directory: Path) -> tuple[str, ...]:
    """Return what is wrong with a host on purpose, oldest first."""
    try:
        return tuple(json.loads((host_directory / FAULTS).read_text()))
    except (OSError, ValueError):
        return ()


def write_faults(host_directory: Path, faults: tuple[str, ...]) -> None:
    """Record what is wrong with a host on purpose."""
    write_text_atomically(host_directory / FAULTS, json.dumps(faults), mode=0o600)


def with_faults(lab: Lab) -> Lab:
    """Return the lab with the faults of its hosts as they are now."""
    hosts: list[LabHost] = [
        dataclasses.replace(host, faults=read_faults(lab.host_directory(host.name))) for host in lab.hosts
    ]
    return dataclasses.replace(lab, hosts=tuple(hosts))
