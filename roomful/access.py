"""Which hosts can be used without a password, and the host list that keeps only those."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from roomful.errors import InputError
from roomful.hosts import Host, HostList, format_host, known_lists, output_path, read_host_list, write_text_atomically
from roomful.settings import Settings

if TYPE_CHECKING:
    from roomful.outcome import Outcome, Outcomes
    from roomful.ssh import HostConnection


def check_access(
    hosts: Sequence[Host],
    settings: Settings,
    on_outcome: Callable[[Outcome[None]], None] | None = None,
) -> Outcomes[None]:
    """Log in to every host with a key, once, and run ``true`` there; never asks for a password or anything else."""
    # Imported here: fabric and paramiko cost 200 ms, and the rest of this module does not need them.
    from roomful.ssh import fan_out

    return fan_out(hosts, check_shell, settings, on_outcome)


def check_shell(connection: HostConnection) -> None:
    """Run ``true`` there; raises HostFailure.

    A login shell that waits for a dead file server must not hold a step for as long as a real command may take.
    """
    from roomful.outcome import HostFailure

    seconds = connection.settings.login_timeout_seconds
    try:
        connection.execute(["true"], timeout=seconds)
    except HostFailure as failure:
        if failure.reason != "command-timeout":
            raise
        why = f"logged in, but no command ran within {seconds:g} s: the home, or a start file of the shell, hangs"
        raise HostFailure(failure.reason, why) from failure


def check_output(output: str, spec: str, settings: Settings, hosts: Iterable[Host]) -> Path:
    """Return the file of the list ``output``, which is to hold those of ``hosts`` (given as ``spec``) that pass.

    A list that exists is replaced only if it is named in ``spec`` itself or holds no other hosts than that: an
    earlier result. Raises InputError for any other, because that would lose hosts that nobody has checked, and for a
    file that could not be written.
    """
    path = output_path(output, settings)
    if not path.exists():
        return path
    known = {host.label for source in _lists_in(spec, settings) for host in source.hosts}
    known |= {host.label for host in hosts}
    strange = [host.label for host in read_host_list(path).hosts if host.label not in known]
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        why = f"it holds hosts that were not checked: {', '.join(strange[:3])}{more}"
        raise InputError("will not replace this list", where=str(path), why=why, fix="choose another --output")
    return path


def write_list(path: Path, spec: str, settings: Settings, keep: Collection[Host]) -> None:
    """Write the hosts to keep as they stand in the lists that ``spec`` names.

    One list is copied with all its comments, without the lines of other hosts. Of several lists, and of hosts that
    stand in none, there is a line each.
    """
    labels = {host.label for host in keep}
    sources = _lists_in(spec, settings)
    if len(sources) == 1 and labels <= {host.label for host in sources[0].hosts}:
        text = sources[0].text_with(lambda host: host.label in labels)
    else:
        written = {line.host.label: line.text for source in sources for line in source.lines if line.host}
        text = "".join(f"{written.get(host.label) or format_host(host)}\n" for host in keep)
    write_text_atomically(path, text)


def _lists_in(spec: str, settings: Settings) -> list[HostList]:
    """Return the host lists that a specification names, by name or by path."""
    known = known_lists(settings)
    words = [word.strip() for word in re.split(r",(?![^\[]*\])", spec or settings.hosts)]
    paths = [
        known.get(word) or (Path(word).expanduser() if "/" in word or word.endswith(".txt") else None)
        for word in words
    ]
    return [read_host_list(path) for path in paths if path]
