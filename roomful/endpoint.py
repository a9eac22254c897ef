"""Where a host is reached and with which keys: the host list, ssh_config and the settings put together.

Loads nothing of paramiko: hosts are dialled while that is loaded.
"""

from __future__ import annotations

import functools
import getpass
import shlex
from dataclasses import dataclass
from pathlib import Path

from roomful.dialer import Address
from roomful.errors import InputError
from roomful.hosts import Host
from roomful.openssh import config_file, gateway_argv, ssh_argv
from roomful.settings import Settings
from roomful.ssh_config import Found, SshConfig

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


def endpoint_of(host: Host, settings: Settings) -> Endpoint:
    """Put together what the host list, ssh_config and the settings say, in this order of precedence."""
    config = _config(config_file(host, settings) or settings.path(settings.ssh_config))
    found = config.lookup(host.name) if config else Found()
    name = host.attributes.get("address") or found.get("hostname") or host.name
    port = host.port or _port(found, host)
    user = host.user or settings.user or found.get("user") or _local_user()
    files = found.values.get("userknownhostsfile")
    if files or host.attributes.get("ssh_config"):
        known = tuple(settings.path(file) for file in shlex.split(files or "~/.ssh/known_hosts"))
    else:
        known = (settings.path(settings.known_hosts),)
    if settings.identity_file and not host.attributes.get("ssh_config"):
        keys = [settings.identity_file]
    else:
        keys = list(found.identity_files or DEFAULT_IDENTITIES)
    # --gateway goes before what ssh_config says, as ssh -J does.
    proxy = tuple(gateway_argv(host, settings, f"[{name}]:{port}") or ()) or _configured_proxy(host, settings, found)
    key_name = found.get("hostkeyalias") or name
    identity_files = tuple(settings.path(key) for key in keys)
    return Endpoint(name, port, user, key_name, known, identity_files, Address(name, port, proxy))


def _port(found: Found, host: Host) -> int:
    text = found.get("port") or "22"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise InputError("not a port", where=f"ssh_config of {host.name}: Port {text}", fix="1 to 65535")
    return int(text)


@functools.cache
def _local_user() -> str:
    return getpass.getuser()


def _configured_proxy(host: Host, settings: Settings, found: Found) -> tuple[str, ...]:
    """What ssh_config's ProxyCommand or ProxyJump says. OpenSSH itself walks the jump hosts, with its own checks."""
    if found.get("proxycommand"):
        return "sh", "-c", f"exec {found.get('proxycommand')}"
    if not found.get("proxyjump"):
        return ()
    name = host.attributes.get("address") or found.get("hostname") or host.name
    port = host.port or _port(found, host)
    jump, _, rest = found.get("proxyjump").partition(",")
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
def _config(path: Path) -> SshConfig | None:
    try:
        return SshConfig(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError("cannot read the ssh_config", where=str(path), why=str(error)) from error


__all__ = ["Endpoint", "endpoint_of"]
