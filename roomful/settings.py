"""The settings, all under the one key ``roomful:`` of Invoke's own configuration hierarchy."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roomful.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its unit in the name and its default here.

    Sources, later ones win: these defaults, ``invoke.yaml`` (key ``roomful:``), the environment
    (``INVOKE_ROOMFUL_CONNECT_TIMEOUT_SECONDS=3``), a task's own flags.
    """

    #: The project's folder: relative paths below are taken from it.
    root: Path = field(default_factory=Path.cwd)
    #: Host specification used when a task is called without ``--hosts``.
    hosts: str = ""
    #: Folder of the host lists.
    host_lists: str = "host_lists"
    #: Folder on each client that ``deploy`` fills and tasks run in; relative to the home there.
    workdir: str = "~/roomful"
    #: Name of this cluster: keeps several on the same machines apart. Empty: made from the project's path.
    cluster: str = ""
    #: Account on the hosts where neither the host list nor ssh_config names one. Empty: the local one.
    user: str = ""
    #: OpenSSH client configuration; a host list's ``ssh_config=`` attribute wins.
    ssh_config: str = "~/.ssh/config"
    #: File with the hosts' keys; ssh_config's UserKnownHostsFile wins.
    known_hosts: str = "~/.ssh/known_hosts"
    #: Private key. Empty: ssh_config's IdentityFile, else ~/.ssh/id_ed25519, id_ecdsa, id_rsa.
    identity_file: str = ""
    #: Reach every other host through this one, as ``ssh -J`` does. Empty: directly, or as ssh_config says.
    gateway: str = ""
    #: Remember unknown host keys instead of refusing them (a changed key is always refused).
    accept_new_host_keys: bool = False
    #: A host must accept the connection and speak SSH within this time.
    connect_timeout_seconds: float = 10.0
    #: Key exchange and login must be done within this time.
    login_timeout_seconds: float = 20.0
    #: A step's command on a host must end within this time.
    command_timeout_seconds: float = 300.0
    #: Most key exchanges at the same time; one whose host does not answer for half a second counts no more.
    handshakes: int = 32
    #: Most hosts that are worked on at the same time.
    parallel: int = 512
    #: Where the server runs: empty means this machine, else a host.
    server_on: str = ""
    #: Use this Redis-protocol server instead of an own Valkey (``rediss://...``, ``redis://...``, ``unix:///path``).
    server_url: str = ""
    #: Folder for the queue's data. Empty: /var/tmp/roomful-UID/CLUSTER.
    server_directory: str = ""
    #: Folder on the clients for sockets and spool, on local disk. Empty: /tmp/roomful-UID/CLUSTER.
    client_directory: str = ""
    #: How often an agent says that it is alive.
    heartbeat_seconds: float = 2.0
    #: A host that is silent for this long has lost its tasks.
    lease_seconds: float = 30.0
    #: Silence after which an agent on a host that answers is taken for dead.
    agent_silence_seconds: float = 8.0
    #: An agent that cannot reach the server keeps its tasks running for this long.
    cut_off_grace_seconds: float = 600.0
    #: File on each client whose lock its agent holds while tasks run, for all who want a machine to themselves.
    #: Empty: none, and for bench.run /tmp/benchexec.lock.
    host_lock: str = ""
    #: Folder that ``collect`` fills.
    results: str = "results"
    #: Who is told when tasks that are waited for have ended: URLs, separated by blanks. ``--notify`` wins.
    notify: str = ""
    #: E-mail addresses that are told too. ``--mail-to`` wins.
    mail_to: str = ""
    #: Sender of these e-mails. Empty: this account at this machine.
    mail_from: str = ""
    #: Mail server and its port; with a user, the password is ROOMFUL_SMTP_PASSWORD's or the keyring's.
    smtp_host: str = "localhost"
    smtp_port: int = 25
    smtp_user: str = ""
    #: ``auto`` (STARTTLS where offered), ``starttls``, ``tls`` or ``none``.
    smtp_security: str = "auto"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], root: Path | None = None) -> Settings:
        """Build settings from the mapping under ``roomful:``.

        Raises SettingsError for an unknown key (with the nearest known one) or a value of the wrong type.
        """
        fields = {item.name: item for item in dataclasses.fields(cls) if item.name != "root"}
        checked: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                fix = f"did you mean {near[0]}?" if near else "see the table of settings in the README"
                raise SettingsError(f"unknown setting {key!r}", where="roomful", fix=fix)
            checked[key] = _checked(key, value, type(fields[key].default))
        return cls(root=root or Path.cwd(), **checked)

    def path(self, value: str) -> Path:
        """Resolve a path setting: ``~`` is the home, a relative path starts at the project's folder."""
        return self.root / Path(value).expanduser()

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with these settings changed."""
        return dataclasses.replace(self, **changes)


def defaults() -> dict[str, Any]:
    """Return the defaults as plain values, for ``ns.configure({"roomful": ...})``."""
    return {item.name: item.default for item in dataclasses.fields(Settings) if item.name != "root"}


def _checked(key: str, value: Any, kind: type) -> Any:
    where = f"roomful.{key}"
    if kind is bool:
        # From the environment come words, as they were written.
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}
        known = value if isinstance(value, bool) else words.get(str(value).lower())
        if known is None:
            raise SettingsError(f"bad value {value!r}", where=where, fix="write true or false")
        return known
    if kind in (int, float):
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise SettingsError(f"bad value {value!r}", where=where, fix="write a number") from None
        if number <= 0 or number != number or isinstance(value, bool):
            raise SettingsError(f"bad value {value!r}", where=where, fix="write a number above 0")
        return number
    if not isinstance(value, str) or re.search(r"[\0\n\r]", value):
        raise SettingsError(f"bad value {value!r}", where=where, fix="write one line of text")
    return value
