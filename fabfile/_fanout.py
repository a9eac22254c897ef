"""What the tasks that fan out have in common: from ``--hosts`` to the recap."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from invoke import Context, Exit

from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host, known_lists, read_host_list, resolve
from roomful.outcome import Outcome, Outcomes, allowed_failures
from roomful.settings import Settings

from ._step import current_call, settings_of

#: Makes the extra cells of an outcome's row, and the extra keys of its JSON object.
Columns = Callable[[Outcome[Any]], Mapping[str, Any]]


def begin(
    c: Context, hosts: str, exclude: str = "", max_failed: str = "0", **changes: Any
) -> tuple[Settings, tuple[Host, ...]]:
    """Read the settings, resolve ``--hosts``, and step into the lab's network if they are a lab's.

    ``changes`` replace settings where they are not empty. Raises InputError before anything is done.
    """
    settings = settings_of(c).replace(**{key: value for key, value in changes.items() if value})
    if not (hosts or settings.hosts) and any(word.split("=")[0] == "--hosts" for word in sys.argv):
        fix = f"a flag belongs to the task before it: inv {current_call().name} --hosts NAME ..., and so on"
        raise InputError("no hosts given for this task", fix=fix)
    chosen = resolve(hosts, settings, exclude)
    allowed_failures(max_failed, len(chosen))
    if exclude and len(chosen) == len(resolve(hosts, settings)):
        # Perhaps mistyped; a script may leave out what is not there.
        print(f"note: --exclude={exclude} leaves out none of these hosts", file=sys.stderr)
    enter_lab(chosen)
    return settings, chosen


@contextlib.contextmanager
def turn(place: str, hosts: Sequence[Host], settings: Settings) -> Iterator[None]:
    """Wait, and say so, until no other step of this project changes the same on these hosts; then keep others out."""
    from roomful import turns
    from roomful.report import host_spec

    def on_wait(other: turns.Turn) -> None:
        both = [host for host in hosts if host.label in other.labels]
        print(f"waiting for {other.name} (process {other.pid}), which changes {host_spec(both)}", file=sys.stderr)

    with turns.turn(f"inv {current_call().name}", place, hosts, settings, on_wait):
        yield


def enter_lab(hosts: Iterable[Host]) -> None:
    """Move this process into the network namespace that these hosts name, if any (see the README, The lab).

    Raises InputError when they are in different ones.
    """
    spaces = {host.netns for host in hosts}
    if len(spaces) > 1:
        names = ", ".join(sorted(space or "the ordinary network" for space in spaces))
        raise InputError("these hosts are in different networks", why=names, fix="call the task once for each")
    from roomful.openssh import inside_namespace

    for space in spaces:
        if space and not inside_namespace(space):
            from roomful.lab.netns import enter

            enter(space)


def finish(
    outcomes: Outcomes[Any],
    *,
    json: bool = False,
    max_failed: str = "0",
    columns: Columns | None = None,
    summary: Mapping[str, Any] | None = None,
    quiet: bool = False,
    detailed: bool | None = None,
    again: Mapping[str, Any] | None = None,
) -> None:
    """Print the table (stdout), the recap and the line that tries again (stderr); exit 1 beyond ``max_failed``.

    ``summary`` is added to the JSON document; ``quiet`` leaves the table out, for tasks that printed their own data,
    and ``detailed`` tells whether the recap has a line for each failure (without it: where no table had them);
    ``again`` changes flags of the line that tries again.
    """
    from roomful import report

    if json:
        print(report.outcomes_json(outcomes, columns, summary))
    told = True if json else False if quiet else show_table(outcomes, columns)
    sys.stdout.flush()
    changes = {"hosts": report.host_spec(outcome.host for outcome in outcomes.not_ok), **(again or {})}
    for line in report.recap(
        outcomes, current_call().line(**changes), detailed=not told if detailed is None else detailed
    ):
        print(line, file=sys.stderr)
    explain_names(outcomes)
    if any(outcome.reason == "interrupted" for outcome in outcomes):
        raise Exit(code=130)
    if not outcomes.tolerated(max_failed):
        raise Exit(code=1)


def show_table(outcomes: Outcomes[Any], columns: Columns | None = None) -> bool:
    """Print the table (stdout), as much of it as a narrow terminal takes; returns whether it had details."""
    from roomful import report

    rows, headers = report.outcome_rows(outcomes, columns)
    left_out = show_fitted(rows, headers)
    if "warnings" in left_out:
        column = headers.index("warnings")
        told: dict[str, list[Host]] = {}
        for row, outcome in zip(rows, outcomes, strict=True):
            if row[column]:
                told.setdefault(row[column], []).append(outcome.host)
        for warning, hosts in told.items():
            print(report.printable(f"{report.host_spec(hosts)}: {warning}"), file=sys.stderr)
    return "detail" not in left_out


def show_fitted(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> tuple[str, ...]:
    """Print a table (stdout), and say what of it does not fit the terminal; returns the columns that are left out."""
    from roomful import report

    text, left_out = report.fitted_table(
        rows, headers, shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    )
    print(text, flush=True)
    # Details and warnings have lines of their own.
    others = [name for name in left_out if name not in ("detail", "seconds", "warnings")]
    if others:
        rest = "a wider terminal, a pipe and --json have all"
        print(f"left out, for want of room: {', '.join(reversed(others))}; {rest}", file=sys.stderr)
    return left_out


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Print a table as data (stdout)."""
    from roomful import report

    print(report.table(rows, headers))


def explain_names(outcomes: Outcomes[Any]) -> None:
    """Say of names that nobody knows that they are no host lists either: the first typo that people make."""
    given = str(current_call().given.get("hosts", "")).split(",")
    unknown = [outcome.host.name for outcome in outcomes if outcome.reason == "dns" and outcome.host.name in given]
    lists = known_lists(Settings()) if unknown else {}
    if not lists:
        return
    said = f"no host list has that name either: {', '.join(unknown)}; the lists are: {', '.join(lists)}"
    listed = {host.name for path in lists.values() for host in _hosts_of(path)}
    near = [name for word in unknown for name in difflib.get_close_matches(word, listed, n=1)]
    meant = f"; did you mean {', '.join(near)}?" if near else ""
    print(f"{said}{meant}", file=sys.stderr)


def _hosts_of(path: Path) -> tuple[Host, ...]:
    with contextlib.suppress(RoomfulError):
        return read_host_list(path).hosts
    return ()


def learn(settings: Settings, source: str, outcomes: Sequence[Outcome[Any]], facts: Columns | None = None) -> None:
    """Keep what a task has found out about hosts for ``inv hosts``; ``facts`` tells more of those with a value."""
    from roomful.inventory import Inventory

    known = {}
    for outcome in outcomes:
        if outcome.reason != "interrupted":
            said = {"status": outcome.status, "reason": outcome.reason, "detail": outcome.detail}
            more = facts(outcome) if facts and outcome.value is not None else {}
            known[outcome.host.label] = {**said, **more}
    try:
        Inventory(settings).learn(source, known)
    except (OSError, RoomfulError) as error:
        # What was found out is worth more than remembering it.
        print(f"not remembered for inv hosts: {error}", file=sys.stderr)
