"""Outcomes as tables, JSON and recaps. Pure functions: they return text and print nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from roomful.hosts import Host
from roomful.outcome import Outcome, Outcomes

Columns = Callable[[Outcome[Any]], Mapping[str, Any]]

#: A failure's detail is cut at this many characters in tables, and in a line of its own; JSON has all of it.
DETAIL_WIDTH = 130
LINE_WIDTH = 400
#: Columns without which a table says nothing, however narrow the terminal is.
KEPT = frozenset({"host", "status", "state", "reason"})


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Lay out rows under headers; numbers keep the form they come in."""
    import tabulate

    # Its default makes every column two wider than its header; a table is to fit 80 columns where it can.
    tabulate.MIN_PADDING = 0
    cells = [[printable(str(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return tabulate.tabulate(cells, headers, tablefmt="simple", disable_numparse=True)


def printable(text: str) -> str:
    """Escape what a terminal could take for a command; names and messages come from other machines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fitted_table(
    rows: Sequence[Sequence[Any]], headers: Sequence[str], width: int | None
) -> tuple[str, tuple[str, ...]]:
    """Lay out rows in ``width`` columns of a terminal (None: in any), and name the table's columns that are left out.

    First to go are details, then columns in which nothing stands, times, and then the rightmost ones; never KEPT.
    """
    names = list(headers)
    text = table(rows, names)
    empty = [name for number, name in enumerate(names) if all(row[number] in ("", None) for row in rows)]
    order = ["detail", *empty, "seconds", *reversed(names)]
    left_out: list[str] = []
    for name in order:
        if width is None or width_of(text) <= width:
            break
        if name in names and name not in KEPT:
            number = names.index(name)
            names.pop(number)
            rows = [[*row[:number], *row[number + 1 :]] for row in rows]
            text = table(rows, names)
            left_out += [] if name in empty else [name]
    return text, tuple(left_out)


def outcomes_table(outcomes: Outcomes[Any], columns: Columns | None = None) -> str:
    """Lay out one row a host: host, status, reason, the step's own columns, seconds, detail."""
    return fitted_table(*outcome_rows(outcomes, columns), None)[0]


def outcome_rows(outcomes: Outcomes[Any], columns: Columns | None = None) -> tuple[list[list[Any]], list[str]]:
    """Return the rows of outcomes' table, and its headers."""
    extra = [dict(columns(outcome)) if columns else {} for outcome in outcomes]
    names = list(dict.fromkeys(key for cells in extra for key in cells))
    with_reason = bool(outcomes.not_ok)
    headers = ["host", "status", *(["reason"] if with_reason else []), *names, "seconds"]
    headers += ["detail"] if with_reason else []
    rows = []
    for outcome, cells in zip(outcomes, extra, strict=True):
        row = [outcome.host.label, outcome.status, *([outcome.reason or ""] if with_reason else [])]
        row += [cells.get(name, "") for name in names]
        row += [f"{outcome.seconds:.2f}", *([_cut(outcome.detail)] if with_reason else [])]
        rows.append(row)
    return rows, headers


def _cut(text: str, width: int = DETAIL_WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def width_of(text: str) -> int:
    """Return the length of the longest line."""
    return max(map(len, text.splitlines()), default=0)


def outcomes_json(
    outcomes: Outcomes[Any], columns: Columns | None = None, summary: Mapping[str, Any] | None = None
) -> str:
    """Write the outcomes as one JSON document: counts, then one object a host."""
    hosts = []
    for outcome in outcomes:
        item: dict[str, Any] = {
            "host": outcome.host.label,
            "status": outcome.status,
            "reason": outcome.reason,
        }
        item |= {"detail": outcome.detail, "seconds": round(outcome.seconds, 3)}
        item |= dict(columns(outcome)) if columns else {}
        hosts.append(item)
    counts = {status: len(outcomes.with_status(status)) for status in ("ok", "failed", "unreachable")}
    return to_json({**counts, **(summary or {}), "hosts": hosts})


def to_json(document: Any) -> str:
    """Write one JSON document as every ``--json`` does."""
    return json.dumps(document, indent=1, default=str)


def recap(outcomes: Outcomes[Any], again: str = "", detailed: bool = False) -> list[str]:
    """Say how it went in a few lines; ``again`` is the command for the hosts that did not succeed.

    ``detailed`` adds a line for each of these, where no table has shown them.
    """
    counts = f"{len(outcomes.ok)} ok, {len(outcomes.failed)} failed, {len(outcomes.unreachable)} unreachable"
    lines = [f"{len(outcomes)} {'host' if len(outcomes) == 1 else 'hosts'}: {counts}"]
    if outcomes.not_ok:
        if detailed:
            for outcome in outcomes.not_ok:
                detail = f": {printable(_cut(outcome.detail, LINE_WIDTH))}" if outcome.detail else ""
                lines.append(f"  {outcome.host.label}: {outcome.status}, {outcome.reason}{detail}")
        reasons = ", ".join(f"{count} {reason}" for reason, count in outcomes.reasons().most_common())
        lines.append(f"reasons: {reasons}")
        if again:
            lines.append(f"again on these: {again}")
    return lines


def host_spec(hosts: Iterable[Host]) -> str:
    """Write hosts as a ``--hosts`` value, numbers folded into ranges where there are more than four."""
    labels = [host.label for host in hosts]
    plain = [label for label in labels if not set(label) & set("@:[]")]
    if len(plain) <= 4:
        return ",".join(labels)
    # Imported here: it costs 60 ms and short lists do not need it.
    from ClusterShell.NodeSet import NodeSet

    folded = str(NodeSet.fromlist(plain, resolver=None))
    return ",".join([folded, *(label for label in labels if label not in set(plain))])


def size(count: float) -> str:
    """Write a number of bytes for people: ``3.2 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Write a time span for people: ``45 s``, ``3 min 20 s``, ``5 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
