"""The whole workflow at once."""

from __future__ import annotations

from invoke import Context

from ._step import step


@step(help={"rootless": "use sshd processes of your own on 127.0.0.x even as root"})
def demo(c: Context, rootless: bool = False) -> None:
    """Cluster: show the whole workflow on hosts made on this machine, with a computation whose answer is known.

    Makes a lab of eight hosts (one is off, one refuses the key), takes every step from discover to collect with the
    commands that you would type, checks the result, and removes everything again. Takes about a minute.

    Example:
        inv demo
    """
    del c
    from roomful import report
    from roomful.demo import Demo

    def say(line: str) -> None:
        print(line, flush=True)

    result = Demo(say, rootless=True if rootless else None).run()
    names = ["host", "done", "failed", "slots"]
    print()
    print(report.table([[client.get(name, "") for name in names] for client in result.clients], names))
    print(f"\n{result.checked.strip()}")
    print(f"{result.commands} commands, {report.duration(result.seconds)}; nothing of it is left on this machine")
