"""Command lines for a host: sshd hands them to the account's login shell, which may be bash, zsh, tcsh or fish. Pure.

`shlex.join` writes for POSIX shells alone. Inside single quotes csh still replaces ``!`` and takes no newline, and
fish takes backslashes for its own; zsh replaces a word that begins with ``=``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Words of these characters mean themselves in every shell.
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@+-]+")
#: What cannot stand in single quotes in some shell, and what stands for it outside them in all.
_OUTSIDE = {"'": '"\'"', "\\": "\\\\", "!": "\\!"}
#: Puts newlines back: no way to write one means the same to csh and to the others.
_WITH_NEWLINES = 'eval "exec $(printf %b "$1")"'


def command_line(argv: Sequence[str]) -> str:
    """Write an argv so that every login shell reads the same words."""
    line = " ".join(map(_word, argv))
    if "\n" not in line:
        return line
    # %b of printf(1): octal escapes are a zero and three digits, or the next character might be one of them.
    text = line.replace("\\", "\\0134").replace("\n", "\\0012")
    return " ".join(map(_word, ("sh", "-c", _WITH_NEWLINES, "sh", text)))


def not_found(program: str, code: int, stderr: bytes) -> bool:
    """Tell whether a login shell's exit code and words mean that it did not find this program (csh's code is 1)."""
    if code in (126, 127):
        return program.encode() in stderr
    return code == 1 and f"{program}: Command not found".encode() in stderr


def _word(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    parts = re.split(r"(['\\!])", word)
    return "".join(_OUTSIDE.get(part, f"'{part}'") for part in parts if part) or "''"
