"""Results that go to a path of the user's choosing: which task's goes where, and which have arrived.

``inv submit --results FILE`` writes a batch into ``.roomful/deliveries/``: a line of JSON about the batch, then a
line ``TASK_ID TAB DIGEST TAB PATH`` for each task of the task file (PATH as JSON text). The numbers of the lines that
have arrived, or never will, are appended to a second file beside it; when all have, both are removed. The digest is
of what the task does: a queue that was made anew gives the same ids to other tasks.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roomful.atomic_file import AtomicFile
from roomful.errors import RoomfulError, TaskFileError
from roomful.settings import Settings
from roomful.state import ProjectState, private_directory

VERSION = 1


@dataclass(frozen=True)
class Delivery:
    """One task's result and where it goes; ``number`` counts within the batch."""

    number: int
    task_id: int
    digest: str
    path: Path


@dataclass(frozen=True)
class Batch:
    """The deliveries of one submission that are still to be made."""

    file: Path
    #: The task prints the path of a file on the client; that file is the result.
    as_files: bool
    pending: tuple[Delivery, ...]


def digest_of(payload: bytes) -> str:
    """Return a short digest of what a packed task does, without priority, needs and policy."""
    return hashlib.blake2b(payload.split(b"\n", 2)[2], digest_size=9).hexdigest()


def read_result_paths(file: Path, count: int) -> list[Path]:
    """Read a result path a line, for ``count`` tasks; relative ones start at the current folder.

    Empty lines and lines that start with ``#`` are skipped, as in task files.
    Raises TaskFileError with file and line.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise TaskFileError(
            "cannot read the result paths", where=str(file), why=error.strerror or str(error)
        ) from None
    here = Path.cwd()
    first_line: dict[Path, int] = {}
    folders: dict[Path, str] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        where = f"{file}:{number}"
        path = Path(os.path.normpath(here / os.fsdecode(line)))
        why = _unusable(line, path, folders)
        if why:
            raise TaskFileError(f"bad result path {os.fsdecode(line)!r}", where=where, why=why, fix="name a file")
        if path in first_line:
            why = f"it is on line {first_line[path]} already"
            fix = "give each task a result path of its own"
            raise TaskFileError(f"result path {os.fsdecode(line)!r} twice", where=where, why=why, fix=fix)
        first_line[path] = number
    if len(first_line) != count:
        what = f"{len(first_line)} result paths for {count} tasks"
        raise TaskFileError(what, where=str(file), fix="write one result path a line, the i-th for the i-th task")
    parents = {parent for path in first_line for parent in path.parents}
    for path, number in first_line.items():
        if path in parents:
            why = "another result path is below it"
            raise TaskFileError(f"bad result path {str(path)!r}", where=f"{file}:{number}", why=why)
    return list(first_line)


def _unusable(line: bytes, path: Path, folders: dict[Path, str]) -> str:
    """Say why a result cannot be written there; ``folders`` remembers what was found out about folders."""
    if b"\0" in line:
        return "it holds a NUL byte"
    if line.endswith(b"\r"):
        return "it ends with a carriage return (a Windows line end)"
    try:
        if line.endswith(b"/") or path.is_dir():
            return "it is a folder"
        if path.exists() and not path.is_file():
            return "it is no regular file"
        if path.parent not in folders:
            folders[path.parent] = _unusable_folder(path.parent)
    except OSError as error:
        return error.strerror or str(error)
    return folders[path.parent]


def _unusable_folder(folder: Path) -> str:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write in {nearest}"


class DeliveryBook:
    """The project's batches on disk."""

    def __init__(self, settings: Settings) -> None:
        self.folder = ProjectState(settings).directory / "deliveries"

    def add(self, entries: Iterable[tuple[int, str, Path]], *, as_files: bool) -> Batch:
        """Note a batch of (task id, digest, path); what older batches were to deliver to these paths is dropped."""
        deliveries = tuple(Delivery(number, *entry) for number, entry in enumerate(entries))
        paths = {delivery.path for delivery in deliveries}
        for batch in self.batches():
            self.note(batch, [delivery.number for delivery in batch.pending if delivery.path in paths])
            self.finish(batch)
        private_directory(private_directory(self.folder.parent) / self.folder.name)
        # Named by time, so that batches are gone through in the order in which they were made.
        file = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(3)}.tsv"
        with AtomicFile(file) as out:
            head = {"version": VERSION, "as_files": as_files, "count": len(deliveries)}
            out.write(json.dumps(head).encode() + b"\n")
            for item in deliveries:
                out.write(f"{item.task_id}\t{item.digest}\t{json.dumps(str(item.path))}\n".encode())
        return Batch(file, as_files, deliveries)

    def batches(self) -> list[Batch]:
        """Read every batch that is not finished; raises RoomfulError for one that cannot be read."""
        found = (self._read(path) for path in sorted(self.folder.glob("*.tsv")))
        return [batch for batch in found if batch is not None]

    def note(self, batch: Batch, numbers: Iterable[int]) -> None:
        """Note that these deliveries have been made, or never will be."""
        text = "".join(f"{number}\n" for number in numbers)
        if text:
            fd = os.open(_arrived(batch.file), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)

    def finish(self, batch: Batch) -> None:
        """Remove a batch if nothing of it is left to deliver."""
        if self._read(batch.file) is None:
            batch.file.unlink(missing_ok=True)
            _arrived(batch.file).unlink(missing_ok=True)

    def _read(self, path: Path) -> Batch | None:
        """Read what is left of a batch; None if nothing is."""
        try:
            head, *lines = path.read_text(encoding="ascii").splitlines()
            about = json.loads(head)
            if about["version"] != VERSION or about["count"] != len(lines):
                raise ValueError("written by another version, or cut off")
            arrived = _arrived_numbers(_arrived(path))
            pending = []
            for number, line in enumerate(lines):
                if number not in arrived:
                    task_id, digest, target = line.split("\t")
                    pending.append(Delivery(number, int(task_id), digest, Path(json.loads(target))))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RoomfulError("cannot read", where=str(path), why=str(error), fix=f"remove it: rm {path}") from error
        return Batch(path, bool(about["as_files"]), tuple(pending)) if pending else None


def _arrived(file: Path) -> Path:
    return file.with_suffix(".arrived")


def _arrived_numbers(file: Path) -> set[int]:
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return set()
    # A line without its end was cut off by a crash: that delivery is made again.
    return {int(line) for line in text.split(b"\n")[:-1] if line.isdigit()}
