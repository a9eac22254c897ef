"""What can go wrong, as exceptions that say so in one line.

::

    RoomfulError               exit code 1
    ├── InputError             exit code 2: bad input, nothing was done
    │   ├── HostListError      a line of a host list, or a host specification
    │   ├── TaskFileError      a line of a task file
    │   └── SettingsError      a key or value under ``roomful:``
    ├── MissingProgram         a program or package that this step needs is not installed
    ├── ServerError            the queue's server is not running, or does not answer
    ├── SubmitCut              a submission ended when some tasks had been taken (roomful.submission)
    └── ExperimentFailed       an experiment ended early (roomful.experiments.errors)
        └── CommandFailed      one of its commands ended with an exit code other than 0, or was lost

Exit codes are given by the class and become the process's in one place, ``fabfile/_step.py``.
"""

from __future__ import annotations


class RoomfulError(Exception):
    """Say what failed, where, why, and what to do about it.

    ``where`` is a host, or ``file:line``; ``why`` the cause as it was met; ``fix`` what the reader can do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        sentence = ": ".join(part for part in (self.where, self.what, self.why) if part)
        text = f"{sentence}; {self.fix}" if self.fix else sentence
        # One line, whatever a file or a host put into the parts.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InputError(RoomfulError):
    """Refuse bad input before anything is done."""

    exit_code = 2


class HostListError(InputError):
    """Refuse a line of a host list or a host specification."""


class TaskFileError(InputError):
    """Refuse a line of a task file."""


class SettingsError(InputError):
    """Refuse a setting."""


class MissingProgram(RoomfulError):
    """Name a program that is missing, and the one command that installs it."""

    def __init__(self, program: str, install: str, *, where: str = "") -> None:
        super().__init__(f"{program} is not installed", where=where, fix=f"install it with: {install}")
        self.program = program


class ServerError(RoomfulError):
    """Report that the queue's server cannot be used."""
