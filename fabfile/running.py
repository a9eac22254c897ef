"""Run commands and scripts on many hosts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context

from roomful.errors import InputError
from roomful.gather import LineMerger, differences, gathered
from roomful.hosts import Host
from roomful.settings import Settings

from ._fanout import begin, finish
from ._step import step

if TYPE_CHECKING:
    from roomful.outcome import Outcome, Outcomes
    from roomful.run import Job, Ran

OUTPUT_HELP = {
    "gather": "print identical output once, under the names of all hosts that gave it",
    "diff": "print what most hosts said, then how each other one differs",
    "outdir": "also write each host's output to OUTDIR/HOST.out and HOST.err",
    "stdin": "file that becomes the command's standard input on every host (default: none)",
    "timeout": "seconds the command may take on a host (default: setting command_timeout_seconds)",
    "connect_timeout": "seconds a host may take to answer (default: setting connect_timeout_seconds)",
    "retry": "how many times hosts that could not be reached are tried again",
}


@step(help=OUTPUT_HELP, command=True)
def run(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    gather: bool = False,
    diff: bool = False,
    outdir: str = "",
    stdin: str = "",
    timeout: float = 0.0,
    connect_timeout: float = 0.0,
    retry: int = 0,
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: run a command on all of them and show what each says.

    The command stands after "--". Several words are a program and its arguments; one word is a line for the shell.
    Nothing is left running there when this ends: press Ctrl-C once to see who is pending, twice to stop them.

    Example:
        inv run --hosts n7 -- uptime
        inv run --hosts node[01-20] --gather -- 'uname -r; nproc'
        inv run --hosts n7 --timeout 5 --max-failed 10% -- test -d /scratch
    """
    from roomful.run import Job

    style = Style(gather=gather, diff=diff, outdir=outdir, json=json, max_failed=max_failed)
    _check(timeout, connect_timeout, retry)
    job = Job.of_command(words_after_dashes(), _input(stdin))
    changes = {"connect_timeout_seconds": connect_timeout, "accept_new_host_keys": accept_new_host_keys}
    settings, chosen = begin(c, hosts, exclude, max_failed, **changes)
    style.run(chosen, job, settings, timeout=timeout or None, retries=retry)


@step(
    extra="words",
    help={
        **OUTPUT_HELP,
        "words": "the script's file, then its arguments",
        "detach": "leave the script running there and print its process id and the path of its log",
    },
)
def script(
    c: Context,
    words: list[str],
    hosts: str = "",
    exclude: str = "",
    detach: bool = False,
    gather: bool = False,
    diff: bool = False,
    outdir: str = "",
    stdin: str = "",
    timeout: float = 0.0,
    connect_timeout: float = 0.0,
    retry: int = 0,
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: run a script of this machine on all of them.

    It is run by the interpreter that its first line names (#!), else by sh, and no file of it stays there. Arguments
    that start with "-" go after "--".

    Example:
        inv script setup.sh --hosts n7
        inv script census.py /scratch --hosts n7 --gather
        inv script crawl.sh --hosts n7 --detach -- --depth 3
    """
    from roomful.run import Job

    if not words:
        raise InputError("no script given", fix="such as: inv script setup.sh --hosts n7")
    if detach and stdin:
        raise InputError("a detached script has no standard input", where="--stdin", fix="leave out one of them")
    style = Style(gather=gather, diff=diff, outdir=outdir, json=json, max_failed=max_failed)
    _check(timeout, connect_timeout, retry)
    arguments = [*words[1:], *words_after_dashes()]
    job = Job.of_script(Path(words[0]), arguments, _input(stdin), detach)
    changes = {"connect_timeout_seconds": connect_timeout, "accept_new_host_keys": accept_new_host_keys}
    settings, chosen = begin(c, hosts, exclude, max_failed, **changes)
    style.run(chosen, job, settings, timeout=timeout or None, retries=retry)


def words_after_dashes() -> list[str]:
    """Return the words after ``--``; Invoke itself hands them over only as one joined string."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def _check(timeout: float, connect_timeout: float, retry: int) -> None:
    """Raise InputError for numbers that make no sense."""
    # 0 is what Invoke hands over where nothing was given: then the setting counts.
    for flag, value in (("--timeout", timeout), ("--connect-timeout", connect_timeout)):
        if not 0 <= value < float("inf"):
            raise InputError(f"bad time {value:g}", where=flag, fix="write seconds above 0")
    if retry < 0:
        raise InputError(f"bad number {retry}", where="--retry", fix="write how many times to try again")


def _input(path: str) -> bytes:
    """Read the file of ``--stdin``; the task's own standard input is never touched (a ``while read`` loop's)."""
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError("cannot read", where=path, why=error.strerror or str(error)) from error


@dataclass(frozen=True)
class Style:
    """How a run shows what the hosts say."""

    gather: bool
    diff: bool
    outdir: str
    json: bool
    max_failed: str

    def __post_init__(self) -> None:
        """Raise InputError for two ways to show the same."""
        chosen = [f"--{name}" for name in ("gather", "diff", "json") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} exclude each other", fix="leave out one of them")

    def run(self, hosts: Sequence[Host], job: Job, settings: Settings, timeout: float | None, retries: int) -> None:
        """Run the job, print, and end with the exit code that the outcomes ask for."""
        from roomful import progress, run

        if self.outdir:
            # Before anything runs: what it says could not be kept.
            run.make_folder(Path(self.outdir), hosts)
        live = not (self.gather or self.diff or self.json)
        mergers = {host: LineMerger(host) for host in hosts}

        def show(host: Host, stream: str, chunk: bytes) -> None:
            write(stream, mergers[host].feed(stream, chunk))

        def pending(left: Sequence[Host]) -> None:
            from roomful.report import host_spec

            print(f"\n{len(left)} pending: {host_spec(left)}; Ctrl-C again stops them", file=sys.stderr)

        def retried(left: Sequence[Host]) -> None:
            from roomful.report import host_spec

            print(f"trying again: {host_spec(left)}", file=sys.stderr)

        with progress.hosts("run", len(hosts)) if not live else nullcontext(None) as on_outcome:

            def ended(outcome: Outcome[Ran]) -> None:
                for stream in ("stdout", "stderr") if live else ():
                    write(stream, mergers[outcome.host].end(stream))
                if on_outcome:
                    on_outcome(outcome)

            outcomes = run.run(
                hosts,
                job,
                settings,
                timeout=timeout,
                retries=retries,
                watch=run.Watch(show if live else None, ended, pending, retried),
            )
        for host in hosts if live else ():
            # Of those that were interrupted, a line may not have come to its end.
            for stream in ("stdout", "stderr"):
                write(stream, mergers[host].end(stream))
        if self.outdir:
            run.write_outputs(outcomes, Path(self.outdir))
        self._folded(outcomes)
        finish(outcomes, json=self.json, max_failed=self.max_failed, columns=_texts, quiet=not self.json)

    def _folded(self, outcomes: Outcomes[Ran]) -> None:
        said = {o.host: o.value.stdout + o.value.stderr for o in outcomes if o.value is not None}
        if self.json or not (self.gather or self.diff):
            return
        for part in differences(said) if self.diff else gathered(said):
            write("stdout", part)


def write(stream: str, text: bytes) -> None:
    """Write bytes to our own stdout or stderr at once."""
    target = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
    if text:
        target.write(text)
        target.flush()


def _texts(outcome: Outcome[Ran]) -> dict[str, Any]:
    if outcome.value is None:
        return {"exit_code": None, "stdout": "", "stderr": ""}
    value = outcome.value
    texts = {"stdout": value.stdout.decode(errors="replace"), "stderr": value.stderr.decode(errors="replace")}
    return {"exit_code": value.exit_code, **texts}
