"""Typing into commands while an experiment runs; only on a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from roomful.errors import InputError
from roomful.experiments.logs import CONTROL, logger
from roomful.experiments.session import current

if TYPE_CHECKING:
    from roomful.experiments.command import Command

ESCAPE, END, ERASE, MENU, DELETE = "\x1b", "\x04", "\x7f", "\x08", "\x15"
#: How often it is looked whether the commands still run, in seconds.
LOOK = 0.1


class StdinController:
    """A menu of commands to type into: ``run_cmd(..., stdin=controller)``, then ``controller.wait()``."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, Command]] = []

    def add(self, server: str, text: str, command: Command) -> None:
        """Put a command on the menu."""
        self.commands.append((server, text, command))

    def wait(self) -> None:
        """Show the menu and pass on what is typed, until Ctrl-C, Ctrl-D, or the end of every command.

        Raises InputError where there is no terminal.
        """
        chosen: Command | None = None
        typed = ""
        with _terminal() as fd, contextlib.suppress(KeyboardInterrupt):
            self._menu()
            while any(command.running for _, _, command in self.commands):
                for key in _keys(fd):
                    if key == MENU:
                        chosen, typed = None, ""
                        self._menu()
                    elif key == END:
                        if chosen:
                            chosen.async_stdin("", close=True)
                            return
                    elif key in (ERASE, DELETE):
                        _echo("\b \b" * (min(1, len(typed)) if key == ERASE else len(typed)))
                        typed = typed[:-1] if key == ERASE else ""
                    elif key == "\n":
                        _echo("\n")
                        if chosen:
                            chosen.async_stdin(f"{typed}\n")
                        else:
                            chosen = self._choose(typed)
                        typed = ""
                    elif key.isprintable():
                        typed += key
                        _echo(key)
        logger.log(CONTROL, "no longer typing into commands")

    def _menu(self) -> None:
        say = "type into a command: Ctrl-C leaves, Ctrl-D closes its stdin, Ctrl-H shows this menu"
        logger.log(CONTROL, say)
        for number, (server, text, _) in enumerate(self.commands):
            logger.log(CONTROL, "  [%d] %s: %r", number, server, text)
        _echo("number: ")

    def _choose(self, typed: str) -> Command | None:
        if not typed.isdigit() or int(typed) >= len(self.commands):
            _echo(f"no command {typed!r}; number: ")
            return None
        server, text, command = self.commands[int(typed)]
        logger.log(CONTROL, "typing into %r on %s", text, server)
        return command


def forward_stdin_to(cmd: Command, esc: str = ESCAPE) -> None:
    """Pass on every key to a command as it is pressed, until ``esc`` (the Escape key) or the command's end.

    Raises InputError where there is no terminal.
    """
    with _terminal() as fd:
        logger.log(CONTROL, "every key goes to %r; leave with %s", cmd, "Esc" if esc == ESCAPE else repr(esc))
        while cmd.running:
            for key in _keys(fd):
                if key == esc:
                    return
                cmd.async_stdin(key)


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Give the terminal's keys one by one, unechoed, and put it back as it was."""
    if not sys.stdin or not sys.stdin.isatty():
        raise InputError("this needs a terminal", where="stdin", fix="call it without a pipe, or use cmd.stdin(...)")
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    # cbreak: output keeps its line ends, and Ctrl-C stays what it is.
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _keys(fd: int) -> str:
    """Return the keys pressed within a moment. Raises what ended the experiment meanwhile."""
    if select.select([fd], [], [], LOOK)[0]:
        data = os.read(fd, 1024)
        return data.decode(errors="replace").replace("\r", "\n") if data else END
    session = current()
    if session and session.failure:
        raise session.failure
    return ""


def _echo(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
