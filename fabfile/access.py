"""Get into hosts: let them admit our key, trust theirs, log in, and move there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from roomful.errors import InputError

from ._fanout import begin, enter_lab, finish, show_table
from ._step import settings_of, step

if TYPE_CHECKING:
    from roomful.authorize import Result
    from roomful.hosts import Host
    from roomful.outcome import Outcome
    from roomful.secret import Secret
    from roomful.trust import Offer


@step(help={})
def authorize(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    json: bool = False,
    max_failed: str = "0",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: let them admit your key, so that no step asks for a password any more.

    Makes a key if you have none. The password is asked once for all hosts that need it, only on a terminal, and goes
    only to hosts whose own key is known (see inv trust).

    Example:
        inv authorize --hosts n7
        inv authorize --hosts ada@node[01-20] --accept-new-host-keys
    """
    from roomful import progress
    from roomful.authorize import authorize as authorize_all

    settings, chosen = begin(c, hosts, exclude, max_failed, accept_new_host_keys=accept_new_host_keys)
    with progress.hosts("authorize", len(chosen)) as on_outcome:
        done = authorize_all(chosen, settings, _ask_password, on_outcome)
    for file in done.made:
        print(f"made a key: {file}", file=sys.stderr)
    finish(done.outcomes, json=json, max_failed=max_failed, columns=_key)


def _key(outcome: Outcome[Result]) -> dict[str, Any]:
    return {"key": outcome.value or ""}


def _ask_password(hosts: Sequence[Host]) -> Secret | None:
    """Ask on the terminal; where there is none, ask nobody: a script's standard input is its own."""
    import getpass

    from roomful import progress
    from roomful.report import host_spec
    from roomful.secret import Secret

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print("a password is needed, and asked for on a terminal only", file=sys.stderr)
        return None
    spec = host_spec(hosts)
    several = f"{len(hosts)} hosts ({spec if len(spec) < 60 else spec[:57] + '...'})" if len(hosts) > 1 else spec
    with progress.paused():
        try:
            return Secret(getpass.getpass(f"password on {several}: "))
        except EOFError:
            print(file=sys.stderr)
            return None


@step(help={"yes": "remember the keys without asking"})
def trust(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    yes: bool = False,
    json: bool = False,
    max_failed: str = "0",
) -> None:
    """Hosts: show the fingerprints of their keys, and remember those that are new after a yes.

    A key that is not the one remembered is refused, whatever you answer: find out why it changed, then remove the old
    one with ssh-keygen -R HOST.

    Example:
        inv trust --hosts n7
        inv trust --hosts n7 --yes
    """
    from roomful import progress
    from roomful.trust import look, remember

    settings, chosen = begin(c, hosts, exclude, max_failed)
    with progress.hosts("keys", len(chosen)) as on_outcome:
        outcomes = look(chosen, settings, on_outcome)
    new = [outcome.value for outcome in outcomes.ok if outcome.value and outcome.value.is_new]
    told = json or show_table(outcomes, _fingerprint)
    sys.stdout.flush()
    agreed = bool(new) and (yes or _agreed(f"remember {len(new)} new {'key' if len(new) == 1 else 'keys'}?"))
    added = remember(new) if agreed else 0
    if added:
        where = ", ".join(sorted({str(one.files[0]) for one in new}))
        print(f"remembered {added} {'key' if added == 1 else 'keys'} in {where}", file=sys.stderr)
    elif new and not agreed:
        # Who answered no knows how to say yes.
        print(f"nothing was remembered{'' if sys.stdin.isatty() else '; to do so: add --yes'}", file=sys.stderr)
    summary = {"new": len(new), "remembered": added}
    finish(
        outcomes,
        json=json,
        max_failed=max_failed,
        columns=_fingerprint,
        summary=summary,
        quiet=not json,
        detailed=not told,
    )
    if new and not agreed:
        raise Exit(code=1)


def _fingerprint(outcome: Outcome[Offer]) -> dict[str, Any]:
    if outcome.value is None:
        return {"key": "", "fingerprint": "", "type": ""}
    key = outcome.value.key
    # The type is the first to go where a terminal is narrow.
    return {"key": "new" if outcome.value.is_new else "known", "fingerprint": key.fingerprint, "type": key.key_type}


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@step(
    extra="host",
    command=True,
    help={"host": "the host, written as for --hosts", "gateway": "reach it through this host"},
)
def shell(c: Context, host: str = "", gateway: str = "", accept_new_host_keys: bool = False) -> None:
    """Hosts: log in on one, in this terminal; or run there what stands after "--".

    The exit code is the command's; 255 where ssh could not log in, 143 where the host never said who it is in time.

    Example:
        inv shell node01
        inv shell node01 -- htop
    """
    from roomful import login_watch
    from roomful.hosts import resolve
    from roomful.terminal import shell_argv

    from .running import words_after_dashes

    settings = settings_of(c)
    if accept_new_host_keys:
        settings = settings.replace(accept_new_host_keys=True)
    spec = host or settings.hosts
    if not spec:
        raise InputError("no host given", fix="name one, such as: inv shell node01")
    chosen = resolve(spec, settings)
    if len(chosen) != 1:
        raise InputError(f"{spec!r} is {len(chosen)} hosts", fix="name one, such as: inv shell node01")
    enter_lab(chosen)
    argv = shell_argv(chosen[0], settings, words_after_dashes(), tty=sys.stdin.isatty())
    sys.stdout.flush()
    login_watch.watch(settings.connect_timeout_seconds, chosen[0].label)
    os.execvp(argv[0], argv)


@step(
    help={
        "on": "the machine that is to be the server, written as for --hosts",
        "tasks": "task file to bring along",
        "into": "folder there; what you made in it stays",
        "copy_only": "do not run bootstrap there",
        "gateway": "reach it through this host",
    }
)
def push_toolbox(
    c: Context,
    on: str = "",
    tasks: str = "",
    into: str = "~/roomful-toolbox",
    copy_only: bool = False,
    gateway: str = "",
    accept_new_host_keys: bool = False,
) -> None:
    """Cluster: bring this toolbox with its host lists and a task file to the server's machine, and set it up there.

    Prints the one command line that continues there. The machine needs Python 3.11 and a way to the package index.

    Example:
        inv push-toolbox --on ada@server
        inv push-toolbox --on server --tasks tasks.txt
    """
    from pathlib import Path

    from roomful.hosts import resolve
    from roomful.toolbox import push

    settings = settings_of(c)
    if accept_new_host_keys:
        settings = settings.replace(accept_new_host_keys=True)
    if not on:
        raise InputError("no machine given", fix="name the one that is to be the server: inv push-toolbox --on HOST")
    chosen = resolve(on, settings)
    if len(chosen) != 1:
        raise InputError(f"{on!r} is {len(chosen)} hosts", where="--on", fix="name the one that is to be the server")
    enter_lab(chosen)

    def on_line(line: str) -> None:
        print(line, file=sys.stderr)

    done = push(chosen[0], settings, into, Path(tasks) if tasks else None, None if copy_only else on_line)
    print(f"{done.files} files in {done.directory} on {chosen[0].label}; to go on there:", file=sys.stderr)
    print(done.line)
