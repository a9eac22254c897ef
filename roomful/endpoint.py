"""Where a host is reached and with which keys: the host list, ssh_config and the settings put together.

Reads ssh_config and private keys with paramiko, so it is ssh.py's other half.
"""

from __future__ import annotations

import functools
import getpass
import glob
import io
import os
import re
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from roomful.dialer import Address
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.openssh import config_file, gateway_argv, ssh_argv
from roomful.settings import Settings

#: As deep as OpenSSH follows Include.
MOST_INCLUDES = 16
DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True)
class Endpoint:
    """One host as SSH sees it. ``key_name`` is what known_hosts calls it."""

    host: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[Path, ...]
    identity_files: tuple[Path, ...]
    address: Address


@dataclass(frozen=True)
class Identity:
    """A private key that is ready to sign."""

    name: str
    key: paramiko.PKey


def endpoint_of(host: Host, settings: Settings) -> Endpoint:
    """Put together what the host list, ssh_config and the settings say, in this order of precedence."""
    config = _config(config_file(host, settings) or settings.path(settings.ssh_config))
    found: dict[str, Any] = config.lookup(host.name) if config else {}
    name = host.attributes.get("address") or found.get("hostname") or host.name
    port = host.port or int(found.get("port", 22))
    user = host.user or settings.user or found.get("user") or getpass.getuser()
    if host.attributes.get("ssh_config") or "userknownhostsfile" in found:
        files = str(found.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
        known = tuple(settings.path(file.strip('"')) for file in files)
    else:
        known = (settings.path(settings.known_hosts),)
    if settings.identity_file and not host.attributes.get("ssh_config"):
        keys = [settings.identity_file]
    else:
        keys = found.get("identityfile", list(DEFAULT_IDENTITIES))
    # --gateway goes before what ssh_config says, as ssh -J does.
    proxy = tuple(gateway_argv(host, settings, f"[{name}]:{port}") or ()) or _configured_proxy(host, settings, found)
    key_name = found.get("hostkeyalias") or name
    identity_files = tuple(settings.path(key) for key in keys)
    return Endpoint(name, port, user, key_name, known, identity_files, Address(name, port, proxy))


def _configured_proxy(host: Host, settings: Settings, found: dict[str, Any]) -> tuple[str, ...]:
    """What ssh_config's ProxyCommand or ProxyJump says. OpenSSH itself walks the jump hosts, with its own checks."""
    if found.get("proxycommand", "none") != "none":
        return "sh", "-c", f"exec {found['proxycommand']}"
    if found.get("proxyjump", "none") == "none":
        return ()
    name = host.attributes.get("address") or found.get("hostname") or host.name
    port = host.port or int(found.get("port", 22))
    jump, _, rest = str(found["proxyjump"]).partition(",")
    first, *later = [word for word in (jump, *rest.split(",")) if word][::-1]
    user, _, where = first.rpartition("@")
    where, _, jump_port = where.partition(":")
    attributes = {key: value for key, value in host.attributes.items() if key in ("ssh_config", "netns")}
    gate = Host(where, user or None, int(jump_port) if jump_port else None, attributes=attributes)
    options = ["-W", f"[{name}]:{port}" if ":" in name else f"{name}:{port}"]
    if later:
        options += ["-J", ",".join(reversed(later))]
    return tuple(ssh_argv(gate, settings, *options))


@functools.lru_cache(maxsize=16)
def _config(path: Path) -> paramiko.SSHConfig | None:
    try:
        config = paramiko.SSHConfig()
        config.parse(io.StringIO("".join(_lines(path, 0))))
        return config
    except FileNotFoundError:
        return None
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise InputError("cannot read the ssh_config", where=str(path), why=str(error)) from error


def _lines(path: Path, depth: int) -> Iterator[str]:
    """Yield the lines of an ssh_config with the files that it includes, which paramiko would leave out."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        if words[0].lower() != "include" or len(words) == 1:
            yield line
            continue
        if depth == MOST_INCLUDES:
            raise ValueError(f"includes are nested more than {MOST_INCLUDES} deep")
        for pattern in shlex.split(words[1]):
            # ssh_config(5): a relative path starts at ~/.ssh.
            for file in sorted(glob.glob(str(Path("~/.ssh").expanduser() / Path(pattern).expanduser()))):
                yield from _lines(Path(file), depth + 1)
                yield "\n"


class _Agent(paramiko.Agent):
    """The running ssh-agent. All hosts' threads share its one connection, so a question waits for the one before."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        super().__init__()

    def _send_message(self, msg: Any) -> Any:
        with self._turn:
            return super()._send_message(msg)  # type: ignore[misc]  # not in paramiko's types


def identities(files: tuple[Path, ...]) -> tuple[Identity, ...]:
    """Load the private keys that need no passphrase; if one does, or there is none, also those of the ssh-agent."""
    found: list[Identity] = []
    locked = False
    for file in files:
        try:
            found.append(Identity(str(file), paramiko.PKey.from_path(file)))
        except (OSError, ValueError, TypeError, paramiko.SSHException):
            # Not there, encrypted, or of a type paramiko does not know: the next one may do.
            locked = locked or os.path.exists(file)
    if locked or not found:
        wanted = {public_key(file) for file in files}
        keys = sorted(_Agent().get_keys(), key=lambda key: f"{key.get_name()} {key.get_base64()}" not in wanted)
        found += [Identity(f"agent: {key.comment}", key) for key in keys]
    return tuple(found)


def public_key(file: Path) -> str:
    """Return the public half of a private key's file as ``TYPE BASE64``; "" where it lies not beside it."""
    try:
        return " ".join(file.with_name(f"{file.name}.pub").read_text(encoding="utf-8").split()[:2])
    except (OSError, ValueError):
        return ""


__all__ = ["Endpoint", "Identity", "endpoint_of", "identities", "public_key"]
