"""Bring results back."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context

from roomful.errors import InputError
from roomful.settings import Settings

from ._fanout import begin, enter_lab, finish
from ._step import step

if TYPE_CHECKING:
    from roomful.collect import Collected
    from roomful.hosts import Host
    from roomful.outcome import Outcome, Outcomes
    from roomful.queue import Queue
    from roomful.results import Saved
    from roomful.wanted import Declared, Wanted
    from roomful.watching import Pass


@step(
    extra="paths",
    help={
        "paths": "patterns relative to the workdir, quoted: 'out/*.json' (default: all but what was deployed)",
        "into": "folder to fill; each host gets one of its own in it (default: setting results)",
        "outputs": "only what the tasks that are done declared as 'outputs'; none may be missing",
        "watch": "go on until nothing waits or runs in the queue, or until Ctrl-C",
    },
)
def collect(
    c: Context,
    paths: list[str],
    hosts: str = "",
    into: str = "",
    outputs: bool = False,
    watch: bool = False,
    exclude: str = "",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Results: bring what the tasks wrote to results/HOST/, and every task's outcome, stdout and stderr to results/.

    What is here already is not sent again, so a collection that was cut is finished by the same command. Files are
    complete or absent; nothing is removed, neither here nor there. While tasks run, --watch leaves out files that are
    open for writing or younger than 3 seconds, and brings everything once all tasks have ended.

    Example:
        inv collect --hosts n7
        inv collect 'out/*.json' ./logs --hosts n7 --into results/monday
        inv collect --outputs --watch --hosts n7

    A word that is also a task's name is taken for the task: write ./logs for a folder of that name.
    """
    from roomful import watching
    from roomful.wanted import Wanted

    if outputs and paths:
        raise InputError("--outputs goes without paths", why="it brings what tasks declared", fix="give one of them")
    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    folder = Path(into).expanduser() if into else settings.path(settings.results)
    with _queue(settings, needed="--outputs" if outputs else "--watch" if watch else "") as queue:
        run = _Collecting(settings, chosen, folder, queue)

        def once(settled: bool) -> Outcomes[Collected]:
            declared = run.declared() if outputs else None
            return run.once(Wanted(tuple(paths), declared, settled))

        outcomes = watching.watch(once, queue, _show_pass) if watch and queue else once(False)
        run.show()
    columns = _collected_json if json else _collected_cells
    summary = {"queue": run.saved.document() if run.saved else None}
    finish(outcomes, json=json, max_failed=max_failed, columns=columns, summary=summary)


@contextlib.contextmanager
def _queue(settings: Settings, needed: str) -> Iterator[Queue | None]:
    """Open the project's queue; None where no server was ever started for it, unless a flag needs one."""
    from roomful.server import STATE_VERSION, open_queue
    from roomful.state import ProjectState

    if settings.server_url or ProjectState(settings).read("server", STATE_VERSION) is not None:
        with open_queue(settings) as queue:
            yield queue
    elif needed:
        raise InputError(f"{needed} needs a task queue", why="none was started here", fix="inv start-server")
    else:
        yield None


class _Collecting:
    """A collection or several, with what the queue knows, and what there is to say of the last one."""

    def __init__(self, settings: Settings, hosts: Sequence[Host], folder: Path, queue: Queue | None) -> None:
        self.settings, self.hosts, self.folder, self.queue = settings, hosts, folder, queue
        self.saved: Saved | None = None
        self.outcomes: Outcomes[Collected] | None = None
        self.notes: list[str] = []
        #: What was asked for, where no host has any file of it.
        self.unmatched: tuple[str, ...] = ()

    def declared(self) -> dict[str, list[Declared]]:
        """Return what tasks that are done have declared, by host."""
        from roomful.wanted import Declarations, named

        assert self.queue is not None
        found = Declarations.of(self.queue.tasks("done"))
        labels = {host.label for host in self.hosts}
        elsewhere = sorted(set(found.by_host) - labels)
        self.notes = [f"not in the workdir, so left there: {named(found.outside)}"] if found.outside else []
        self.notes += [f"outputs on other hosts: {', '.join(elsewhere)}"] if elsewhere else []
        return found.by_host

    def once(self, wanted: Wanted) -> Outcomes[Collected]:
        """Bring what is wanted, and save what the queue knows unless that was interrupted."""
        from roomful import progress
        from roomful.collect import collect as collect_from
        from roomful.results import save

        hosts = [host for host in self.hosts if wanted.declared is None or host.label in wanted.declared]
        asks = f"asking {len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}"
        with progress.moved_bytes("collect", asks) as on_bytes:
            self.outcomes = collect_from(hosts, self.settings, wanted, self.folder, on_bytes=on_bytes)
        nothing = not self.outcomes.not_ok and not any(one.value and one.value.files for one in self.outcomes)
        self.unmatched = wanted.patterns if nothing else ()
        if self.queue and not any(outcome.reason == "interrupted" for outcome in self.outcomes):
            self.saved = save(self.queue, self.folder, self.settings, before_connecting=enter_lab)
        return self.outcomes

    def show(self) -> None:
        """Say what was left out, and how the tasks are (stderr)."""
        from roomful import report

        notes = list(self.notes)
        if self.unmatched:
            named = " ".join(map(repr, self.unmatched))
            notes.append(f"no file matches {named}; those that are as deploy put them there are not collected")
        for outcome in self.outcomes or ():
            if outcome.value and outcome.value.skipped_count:
                names = ", ".join(map(repr, outcome.value.skipped[:3]))
                count = outcome.value.skipped_count
                notes.append(f"{outcome.host.label}: left out {count} (links elsewhere, or unreadable): {names}")
        if self.saved:
            counts = f"{self.saved.done} done, {self.saved.failed} failed, {self.saved.cancelled} cancelled"
            notes.append(f"tasks: {counts}; job log: {self.folder / 'joblog.tsv'}")
            notes += [f"task {item.task_id}: {item.stream} is missing: {item.why}" for item in self.saved.missing]
        for note in notes:
            print(report.printable(note), file=sys.stderr)


def _show_pass(one: Pass) -> None:
    """Say what a collection brought while others are to follow (stderr)."""
    from roomful import report

    if one.files_new or not one.left:
        size = report.size(one.bytes_received)
        print(
            f"collect: {one.files_new} new files, {size} received; {one.left} tasks left", file=sys.stderr, flush=True
        )


def _collected_cells(outcome: Outcome[Collected]) -> dict[str, Any]:
    from roomful import report

    value = outcome.value
    if value is None:
        return {"files": "", "size": "", "new": "", "folder": ""}
    if value.shared_with:
        return {"files": f"with {value.shared_with}", "size": "", "new": "", "folder": ""}
    folder = os.path.relpath(value.folder) if value.folder and value.files else ""
    size = report.size(value.bytes)
    return {"files": value.files, "size": size, "new": value.files_new, "folder": folder}


def _collected_json(outcome: Outcome[Collected]) -> dict[str, Any]:
    value = outcome.value
    if value is None:
        return {}
    names = ("files", "bytes", "files_new", "bytes_received", "shared_with", "skipped", "skipped_count")
    return {name: getattr(value, name) for name in names} | {"folder": str(value.folder)}
