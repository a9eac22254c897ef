"""A login on one host, in the user's own terminal."""

from __future__ import annotations

from collections.abc import Sequence

from roomful.hosts import Host
from roomful.login_shell import command_line
from roomful.openssh import namespace_prefix, ssh_options
from roomful.settings import Settings


def shell_argv(host: Host, settings: Settings, command: Sequence[str] = (), tty: bool = True) -> list[str]:
    """Return the argv of an OpenSSH client for people: it may ask for a passphrase or a password.

    Host keys are checked as everywhere. One word of ``command`` is a shell line, several are a program and its
    arguments.
    """
    line = [command[0] if len(command) == 1 else command_line(command)] if command else []
    # ssh takes the first value of an option that it meets.
    people = ["-o", "BatchMode=no", "-t" if tty else "-T"]
    return [*namespace_prefix(host), "ssh", *people, *ssh_options(host, settings), "--", host.name, *line]
