"""Make folders in the workdirs of many hosts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roomful import host_program
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes
from roomful.paths import inside_workdir
from roomful.settings import Settings

if TYPE_CHECKING:
    from roomful.ssh import HostConnection


@dataclass(frozen=True)
class Folders:
    """What became of the folders on one host, as paths relative to the workdir."""

    created: tuple[str, ...]
    existed: tuple[str, ...]


def parse_mode(text: str) -> int | None:
    """Read an octal mode such as ``750``; empty: None.

    Raises InputError, also for a mode that would keep the owner out.
    """
    if not text:
        return None
    octal = re.fullmatch(r"[0-7]{3,4}", text)
    mode = int(text, 8) if octal else 0
    if mode & 0o700 != 0o700:
        why = "the owner could not use the folder" if octal else ""
        raise InputError(f"bad --mode {text!r}", why=why, fix="give an octal mode such as 750")
    return mode


def create_folders(
    hosts: Sequence[Host],
    settings: Settings,
    paths: Sequence[str],
    mode: int | None = None,
    on_outcome: Callable[[Outcome[Folders]], None] | None = None,
) -> Outcomes[Folders]:
    """Make folders, with those above them, in the workdir of every host; ``mode`` for each that is named or made.

    Raises InputError for a path that is not inside the workdir, before any host is touched.
    """
    from roomful.ssh import fan_out

    if not paths:
        raise InputError("no folder given", fix="give paths relative to the workdir, such as: inv create-folders out")
    checked = list(dict.fromkeys(inside_workdir(path, "folder") for path in paths))
    request = {"workdir": settings.workdir, "paths": checked, "mode": mode}

    def work(connection: HostConnection) -> Folders:
        answer = host_program.run(connection, "folders", request)
        return Folders(tuple(answer["created"]), tuple(answer["existed"]))

    return fan_out(hosts, work, settings, on_outcome)
