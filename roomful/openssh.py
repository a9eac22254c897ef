"""Command lines for the OpenSSH client, as the keeper, rsync and ProxyJump need them. Pure functions."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pwd
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from roomful.errors import InputError
from roomful.hosts import Host, resolve
from roomful.settings import Settings

#: OpenSSH 9's default exchange costs 70 ms of CPU a connection, curve25519 10 ms. The rest is for old servers.
KEX_ALGORITHMS = (
    "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,"
    "diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256"
)
#: In a ProxyCommand ssh puts the host's address and port here.
THROUGH = "[%h]:%p"
NETNS_DIRECTORY = Path("/run/netns")


def config_file(host: Host, settings: Settings) -> Path | None:
    """Return the ssh_config to name explicitly; None where OpenSSH finds the user's own by itself."""
    own = host.attributes.get("ssh_config")
    if own:
        return settings.path(own)
    path = settings.path(settings.ssh_config)
    # OpenSSH takes the home from the password database, not from HOME.
    default = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config"
    return path if path != default and path.exists() else None


def gateway_of(host: Host, settings: Settings) -> Host | None:
    """Return the host through which this one is reached by the setting ``gateway``; None for the gateway itself.

    A gateway that stands in no host list of the project is looked for where the host is: in its network namespace,
    with its ssh_config. Raises InputError for a setting that is not one host.
    """
    if not settings.gateway:
        return None
    gateway = _listed_gateway(settings.gateway, settings.root, settings.host_lists)
    if (gateway.name, gateway.port) == (host.name, host.port):
        return None
    same = {key: value for key, value in host.attributes.items() if key in ("ssh_config", "netns")}
    return gateway if gateway.attributes else dataclasses.replace(gateway, attributes=MappingProxyType(same))


@functools.lru_cache(maxsize=16)
def _listed_gateway(spec: str, root: Path, host_lists: str) -> Host:
    found = resolve(spec, Settings(root=root, host_lists=host_lists))
    if len(found) != 1:
        what = f"{spec!r} is {len(found)} hosts"
        raise InputError(what, where="--gateway", fix="name the one that leads to the others")
    return found[0]


def gateway_argv(host: Host, settings: Settings, target: str) -> list[str] | None:
    """Return the command whose stdin and stdout lead to ``target`` (``[name]:port``) through the gateway, if any.

    OpenSSH walks to the gateway with its own checks; SSH is spoken through it to the host, whose key is checked too.
    """
    gateway = gateway_of(host, settings)
    return ssh_argv(gateway, settings.replace(gateway=""), "-W", target) if gateway else None


def ssh_options(host: Host, settings: Settings) -> list[str]:
    """Return the options for this host: batch mode, strict host keys, deadlines, quick key exchange."""
    timeout = math.ceil(settings.connect_timeout_seconds)
    strict = "accept-new" if settings.accept_new_host_keys else "yes"
    words = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": strict,
        "ConnectTimeout": str(timeout),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "KexAlgorithms": KEX_ALGORITHMS,
    }
    config = config_file(host, settings)
    if host.attributes.get("address"):
        words["HostName"] = host.attributes["address"]
    if not host.attributes.get("ssh_config"):
        known_hosts = settings.path(settings.known_hosts)
        if known_hosts != Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "known_hosts":
            words["UserKnownHostsFile"] = _quoted(known_hosts)
        if settings.identity_file:
            words["IdentityFile"] = _quoted(settings.path(settings.identity_file))
            words["IdentitiesOnly"] = "yes"
    proxy = gateway_argv(host, settings, THROUGH)
    if proxy:
        words["ProxyCommand"] = " ".join(map(_proxy_word, proxy))
    options = ["-F", str(config)] if config else []
    for key, value in words.items():
        options += ["-o", f"{key}={value}"]
    if host.port:
        options += ["-p", str(host.port)]
    user = host.user or settings.user
    if user:
        options += ["-l", user]
    return options


def _proxy_word(word: str) -> str:
    """Quote a word of a ProxyCommand: ssh replaces percent signs, a shell reads it, rsync may split it before."""
    word = word if word == THROUGH else word.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9@%+=:,./_-]+", word):
        return word
    # Double quotes where they do: rsync takes no others.
    return shlex.quote(word) if re.search(r"""["\\$`!]""", word) else f'"{word}"'


def _quoted(path: Path) -> str:
    text = str(path)
    if '"' in text or "'" in text or "\\" in text:
        raise InputError("a path handed to ssh cannot hold quotes", where=text, fix="rename it")
    return f'"{text}"' if " " in text else text


def ssh_argv(host: Host, settings: Settings, *options: str, command: Sequence[str] = ()) -> list[str]:
    """Return the argv of an OpenSSH client for this host; ``command`` must already be quoted for the remote shell."""
    return [
        *namespace_prefix(host),
        "ssh",
        *ssh_options(host, settings),
        *options,
        "--",
        host.name,
        *command,
    ]


def rsync_ssh_options(host: Host, settings: Settings) -> str:
    """Return the options as the one string that goes inside rsync's ``--rsh='ssh ...'``.

    rsync splits it at spaces and honours double quotes. Raises InputError for a path that holds quotes.
    """
    words = []
    for word in ssh_options(host, settings):
        if "'" in word or "\\" in word:
            raise InputError("a path handed to ssh cannot hold quotes", where=word, fix="rename it")
        # UserKnownHostsFile="a b" already holds double quotes of its own: rsync takes '""' inside as one '"'.
        words.append('"' + word.replace('"', '""') + '"' if " " in word else word)
    return " ".join(words)


def namespace_prefix(host: Host) -> list[str]:
    """Return what must stand before a command that reaches a lab host from outside the lab's network."""
    if not host.netns or inside_namespace(host.netns):
        return []
    return ["nsenter", f"--net={NETNS_DIRECTORY / host.netns}", "--"]


def inside_namespace(netns: str) -> bool:
    """Tell whether this process already runs in the named network namespace."""
    try:
        return os.stat("/proc/self/ns/net").st_ino == os.stat(NETNS_DIRECTORY / netns).st_ino
    except OSError:
        return False
