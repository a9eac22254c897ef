"""OpenSSH's client configuration (ssh_config(5)): what it says of a host.

Paramiko's reader tries every block for every host: in a file with a block for each of 256 hosts that takes 1.5 s, and
loading paramiko as long again as the hosts take to answer. Here the blocks of plain names are found by their name.
"""

from __future__ import annotations

import getpass
import glob
import hashlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: As deep as OpenSSH follows Include.
MOST_INCLUDES = 16
#: Keywords whose value is the rest of the line, quotes and all.
WHOLE_LINE = frozenset({"proxycommand", "localcommand", "remotecommand", "userknownhostsfile"})
#: Criteria of Match that stand alone.
ALONE = frozenset({"all", "canonical", "final"})
PATTERNS = frozenset({"host", "originalhost", "user", "localuser"})


class ConfigError(ValueError):
    """A line that is no ssh_config; the text says which and why."""


@dataclass(frozen=True)
class Found:
    """What the file says of one host: keywords in lower case, and all the IdentityFiles that apply."""

    values: dict[str, str] = field(default_factory=dict)
    identity_files: tuple[str, ...] = ()

    def get(self, keyword: str) -> str:
        """Return a keyword's value; "" where the file has none, or ``none``."""
        value = self.values.get(keyword, "")
        return "" if value.lower() == "none" else value


@dataclass(frozen=True)
class _Criterion:
    """One condition of a Match block."""

    kind: str
    negated: bool
    argument: str = ""


@dataclass
class _Block:
    """The lines below one Host or Match; those before the first are for every host."""

    hosts: tuple[str, ...] = ("*",)
    criteria: tuple[_Criterion, ...] = ()
    lines: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Search:
    """One look-up on its way: the name that was asked for, and what has been found so far."""

    asked: str
    name: str
    values: dict[str, str] = field(default_factory=dict)
    identity_files: list[str] = field(default_factory=list)
    canonical: bool = False
    final: bool = False


class SshConfig:
    """A configuration file with what it includes. Raises OSError and ConfigError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._blocks = [_Block()]
        for where, line in _lines(path, 0):
            self._read(line, where)
        self._named: dict[str, list[int]] = {}
        self._others: list[int] = []
        for number, block in enumerate(self._blocks):
            if block.criteria or any(re.search(r"[*?!]", pattern) for pattern in block.hosts):
                self._others.append(number)
            else:
                for name in block.hosts:
                    self._named.setdefault(name, []).append(number)

    def _read(self, line: str, where: str) -> None:
        match = re.fullmatch(r"(\w+)(?:\s*=\s*|\s+)(.+)", line)
        if not match:
            raise ConfigError(f"{where}: no keyword and value: {line!r}")
        keyword, rest = match[1].lower(), match[2]
        if keyword in ("host", "match"):
            words = _words(rest, where)
            is_host = keyword == "host"
            self._blocks.append(
                _Block(hosts=words) if is_host else _Block(hosts=(), criteria=_criteria(words, where))
            )
            return
        value = rest if keyword in WHOLE_LINE else " ".join(_words(rest, where))
        self._blocks[-1].lines.append((keyword, value))

    def lookup(self, name: str) -> Found:
        """Return what applies to the host ``name``: of each keyword the first value, as in OpenSSH."""
        search = _Search(name, name)
        self._apply(search)
        yes = search.values.get("canonicalizehostname", "no") in ("yes", "always")
        if yes and name.count(".") <= int(search.values.get("canonicalizemaxdots", "1")):
            search.name = _canonical(name, search.values.get("canonicaldomains", "").split())
            search.values["hostname"] = search.name
            search.canonical = True
        if search.canonical or self._has_final():
            search.final = True
            self._apply(search)
        return _expanded(search)

    def _has_final(self) -> bool:
        return any(c.kind == "final" for number in self._others for c in self._blocks[number].criteria)

    def _apply(self, search: _Search) -> None:
        for number in sorted((*self._named.get(search.name, ()), *self._others)):
            block = self._blocks[number]
            fits = _all_hold(block.criteria, search) if block.criteria else matches(search.name, block.hosts)
            for keyword, value in block.lines if fits else ():
                if keyword == "identityfile":
                    if value not in search.identity_files:
                        search.identity_files.append(value)
                else:
                    search.values.setdefault(keyword, value)


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Tell whether a pattern list (``*``, ``?``, ``!`` before one that must not fit) fits a text."""
    found = False
    for pattern in patterns:
        if re.fullmatch(_regex(pattern.lstrip("!")), text):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def _lines(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Yield where each line stands and what it says, with those of the files that are included."""
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line, where = raw.strip(), f"{path}:{number}"
        if not line or line.startswith("#"):
            continue
        words = re.split(r"[\s=]+", line, maxsplit=1)
        if words[0].lower() != "include" or len(words) == 1:
            yield where, line
            continue
        if depth == MOST_INCLUDES:
            raise ConfigError(f"includes are nested more than {MOST_INCLUDES} deep")
        for pattern in _words(words[1], where):
            # ssh_config(5): a relative path starts at ~/.ssh.
            for file in sorted(glob.glob(str(Path("~/.ssh").expanduser() / Path(pattern).expanduser()))):
                yield from _lines(Path(file), depth + 1)


def _words(text: str, where: str) -> tuple[str, ...]:
    if not re.search(r"""["'\\#]""", text):
        return tuple(text.split())
    try:
        return tuple(shlex.split(text, comments=True))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _criteria(words: Iterable[str], where: str) -> tuple[_Criterion, ...]:
    found = []
    left = iter(words)
    for word in left:
        kind = word.lower().lstrip("!")
        if kind not in ALONE | PATTERNS | {"exec"}:
            raise ConfigError(f"{where}: Match does not know {word!r}")
        argument = "" if kind in ALONE else next(left, "")
        if not argument and kind not in ALONE:
            raise ConfigError(f"{where}: Match {word} needs a value")
        found.append(_Criterion(kind, word.startswith("!"), argument))
    if not found:
        raise ConfigError(f"{where}: Match needs a condition")
    return tuple(found)


def _all_hold(criteria: Iterable[_Criterion], search: _Search) -> bool:
    return all(_holds(criterion, search) != criterion.negated for criterion in criteria)


def _holds(criterion: _Criterion, search: _Search) -> bool:
    if criterion.kind in ALONE:
        return {"all": True, "canonical": search.canonical, "final": search.final}[criterion.kind]
    if criterion.kind == "exec":
        # The user's own line in the user's own file: OpenSSH hands it to a shell as well.
        argv = ["sh", "-c", _filled(criterion.argument, _tokens(search))]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 0
    text = {
        "host": _hostname(search),
        "originalhost": search.asked,
        "user": search.values.get("user", "") or getpass.getuser(),
        "localuser": getpass.getuser(),
    }[criterion.kind]
    return matches(text, criterion.argument.split(","))


def _hostname(search: _Search) -> str:
    return _filled(search.values.get("hostname", search.name), {"h": search.name, "n": search.asked})


def _canonical(name: str, domains: Sequence[str]) -> str:
    for domain in domains:
        try:
            socket.getaddrinfo(f"{name}.{domain}", None)
        except (OSError, UnicodeError):
            continue
        return f"{name}.{domain}"
    return name


def _expanded(search: _Search) -> Found:
    search.values["hostname"] = _hostname(search)
    if not any("%" in value for value in (*search.values.values(), *search.identity_files)):
        return Found(search.values, tuple(search.identity_files))
    tokens = _tokens(search)
    values = {keyword: _filled(value, tokens) for keyword, value in search.values.items()}
    return Found(values, tuple(_filled(file, tokens) for file in search.identity_files))


def _tokens(search: _Search) -> dict[str, str]:
    """Make the replacements of ssh_config(5), section TOKENS."""
    here, user = socket.gethostname(), getpass.getuser()
    found = {
        "h": _hostname(search),
        "n": search.asked,
        "k": search.values.get("hostkeyalias", search.asked),
        "p": search.values.get("port", "22"),
        "r": search.values.get("user", user),
        "j": search.values.get("proxyjump", ""),
        "u": user,
        "d": str(Path.home()),
        "i": str(os.getuid()),
        "l": here,
        "L": here.partition(".")[0],
    }
    unique = "".join(found[letter] for letter in "lhprj")
    return {**found, "C": hashlib.sha1(unique.encode(), usedforsecurity=False).hexdigest()}


def _filled(text: str, tokens: dict[str, str]) -> str:
    return (
        text
        if "%" not in text
        else re.sub(r"%(.)", lambda match: "%" if match[1] == "%" else tokens.get(match[1], match[0]), text)
    )
