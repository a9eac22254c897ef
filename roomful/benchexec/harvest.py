"""What jobs leave: each attempt's archive, fetched from its worker and unpacked here, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful.errors import RoomfulError
from roomful.remote.bench_job import ACCOUNT, archive_name
from roomful.remote_files import Wanted, fetch
from roomful.settings import Settings

#: In the run's folder: the jobs that count, attempts that do not, and what is on its way.
JOBS, FAILED, INCOMING = "jobs", "failed", ".incoming"


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job that ended on a worker."""

    job: str
    number: int
    host: str
    #: Whether it became the job's result.
    counts: bool

    def folder(self, run: Path) -> Path:
        """Return where it belongs in a run's folder."""
        if self.counts:
            return run / JOBS / self.job
        return (
            run / FAILED / self.job / archive_name("", self.number, self.host).partition("+")[2].removesuffix(".zip")
        )


@dataclass(frozen=True)
class Harvest:
    """What fetching brought: attempts that are here now, and why others are not."""

    here: tuple[Attempt, ...]
    missing: Mapping[Attempt, str]


def fetch_attempts(attempts: Iterable[Attempt], run: Path, settings: Settings) -> Harvest:
    """Fetch attempts' archives from their workers and unpack them into the run's folder."""
    incoming = run / INCOMING
    wanted: dict[str, list[Wanted]] = {}
    known = dict(enumerate(attempts))
    for key, attempt in known.items():
        name = archive_name(attempt.job, attempt.number, attempt.host)
        wanted.setdefault(attempt.host, []).append(Wanted(key, name, incoming / name.replace("/", "_")))
    here: list[Attempt] = []
    missing: dict[Attempt, str] = {}
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        for fetched in fetch(wanted, settings):
            attempt = known[fetched.wanted.key]
            if fetched.error:
                missing[attempt] = fetched.error
                continue
            try:
                _unpack(fetched.wanted.local, attempt.folder(run))
                here.append(attempt)
            except (zipfile.BadZipFile, OSError) as error:
                missing[attempt] = f"cannot unpack what came: {error}"
    except OSError as error:
        raise RoomfulError("cannot write results", where=str(run), why=error.strerror or "") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return Harvest(tuple(here), missing)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive beside its place, then rename; zipfile lets no name lead out of the folder."""
    temporary = archive.with_suffix(".d")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(temporary)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        # From before a resumed run found it not to be whole.
        shutil.rmtree(target)
    os.rename(temporary, target)


def account_of(run: Path, job: str) -> dict[str, Any]:
    """Return what a job that is here says of itself: host, attempt, began, seconds; empty if it says nothing."""
    try:
        document = json.loads((run / JOBS / job / ACCOUNT).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
