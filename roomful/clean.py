"""Remove from the hosts what Roomful put there, and say what that was."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roomful import host_program
from roomful.hosts import Host
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.settings import Settings
from roomful.sharing import disks

if TYPE_CHECKING:
    from roomful.ssh import HostConnection


@dataclass(frozen=True)
class Cleaned:
    """What was removed from a host. ``result`` is ``cleaned``, or ``clean`` where nothing of ours was.

    ``removed`` are the names that deploy had put into the workdir (with ``everything``: all names in it), ``files``
    and ``bytes`` what was behind them. ``rescued`` files of tasks stood in deployed folders and now stand in ordinary
    ones. ``left`` stays there: files that had to make way for others. ``folder`` tells what became of the agent's
    (``removed``, ``absent``), ``outputs`` how many of tasks are left in it. ``shared_with`` is the host that cleaned
    the same disk.
    """

    result: str
    removed: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    rescued: int = 0
    left: tuple[str, ...] = ()
    folder: str = "absent"
    outputs: int = 0
    shared_with: str = ""


def clean(
    hosts: Sequence[Host],
    settings: Settings,
    everything: bool = False,
    on_outcome: Callable[[Outcome[Cleaned]], None] | None = None,
) -> Outcomes[Cleaned]:
    """Remove what was deployed and the folder of the agent; with ``everything`` all that is in the workdir too.

    Nothing is removed from a disk as long as an agent, or a process in a release, works on one of its hosts.
    """
    from roomful.clients import remove_run_directory
    from roomful.shipping import project_bundle
    from roomful.ssh import fan_out
    from roomful.state import ProjectState

    bundle = project_bundle(ProjectState(settings))
    indices = {host: index for index, host in enumerate(hosts)}
    seen: dict[int, list[int]] = {}
    request = {"workdir": settings.workdir, "everything": everything, "run": secrets.token_hex(8)}

    def look(connection: HostConnection) -> tuple[bool, int | None]:
        index = indices[connection.entry]
        answer = host_program.run(connection, "clean", request | {"look": True, "index": index})
        seen[index] = answer["seen"]
        return bool(answer["there"]), remove_run_directory(connection, settings, bundle, everything)

    found = fan_out(hosts, look, settings)
    groups = disks(seen)
    working = {groups[i]: host.label for i, host in enumerate(hosts) if i in groups and found[i].status != "ok"}

    def work(connection: HostConnection) -> Cleaned:
        index = indices[connection.entry]
        there, outputs = found[index].value or (False, None)
        folder = "absent" if outputs is None else "removed"
        if there and groups[index] in working:
            raise HostFailure("in-use", f"{working[groups[index]]} shares the disk, and was not cleaned")
        if not there or groups[index] != index:
            label = hosts[groups[index]].label if there else ""
            result = "clean" if outputs is None and not there else "cleaned"
            return Cleaned(result, folder=folder, outputs=outputs or 0, shared_with=label)
        answer = host_program.run(connection, "clean", request | {"look": False, "index": index})
        removed, left = tuple(answer["removed"]), tuple(answer["left"])
        return Cleaned(
            "cleaned", removed, answer["files"], answer["bytes"], answer["rescued"], left, folder, outputs or 0
        )

    again = {outcome.host: outcome for outcome in fan_out([item.host for item in found.ok], work, settings)}
    outcomes: list[Outcome[Cleaned]] = []
    for outcome in found:
        done = again.get(outcome.host)
        if done is None:
            done = Outcome(outcome.host, outcome.status, outcome.reason, outcome.detail, None, outcome.seconds)
        outcomes.append(done)
        if on_outcome:
            on_outcome(done)
    return Outcomes(outcomes)
