"""Let hosts admit our key: what ssh-keygen and ssh-copy-id do, for a whole list, with one password asked once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roomful.access import check_shell
from roomful.endpoint import endpoint_of
from roomful.errors import InputError, MissingProgram, RoomfulError
from roomful.hosts import Host
from roomful.identity import identities, public_key
from roomful.outcome import HostFailure, Outcome, Outcomes
from roomful.secret import Secret
from roomful.settings import Settings
from roomful.ssh import HostConnection, HostGroup, connect, fan_out

#: What became of the key: the host admitted it before; it is in authorized_keys since now, or was there all along.
Result = Literal["already", "added", "present"]

#: Called with the hosts that admit no key of ours; returns the password to use on all of them, None for none.
AskPassword = Callable[[Sequence[Host]], Secret | None]

OnOutcome = Callable[[Outcome[Result]], None]

# $1 is the key as "TYPE BASE64", $2 its comment. Hosts that share a home come here at the same time, hence the lock.
_INSTALL = """\
umask 077
cd && mkdir -p .ssh && touch .ssh/authorized_keys || exit 1
n=0
until mkdir .ssh/.roomful.lock 2>/dev/null; do
  n=$((n+1)); [ "$n" -lt 50 ] || break; sleep 0.2 2>/dev/null || sleep 1
done
if grep -v '^[[:space:]]*#' .ssh/authorized_keys | grep -qF -- "$1"; then
  echo present; s=0
else
  [ -z "$(tail -c 1 .ssh/authorized_keys)" ] || echo >>.ssh/authorized_keys
  # Through cat, which says why it cannot write; dash calls everything an I/O error.
  printf '%s %s\\n' "$1" "$2" | cat >>.ssh/authorized_keys && echo added; s=$?
fi
rmdir .ssh/.roomful.lock
[ "$s" != 0 ] || ! command -v restorecon >/dev/null || restorecon .ssh .ssh/authorized_keys 2>/dev/null
exit "$s"
"""


@dataclass(frozen=True)
class Authorization:
    """What a run did: every host's outcome, and the files of keys that were made for it."""

    outcomes: Outcomes[Result]
    made: tuple[Path, ...]


def authorize(
    hosts: Sequence[Host], settings: Settings, ask: AskPassword, on_outcome: OnOutcome | None = None
) -> Authorization:
    """Make a key if there is none, and install it on every host that does not let us in yet; twice is once.

    ``ask`` is called at most once, and only if a host needs a password; that goes to hosts whose key is known only.
    Raises InputError where a key has no public half beside it, and RoomfulError where none can be made.
    """
    made = tuple(make_key(file) for file in missing_keys(hosts, settings))
    keys = {host: key_of(host, settings) for host in hosts}

    def already(connection: HostConnection) -> Result:
        del connection
        return "already"

    def report(outcome: Outcome[Result]) -> None:
        if on_outcome and outcome.reason != "auth":
            on_outcome(outcome)

    first = fan_out(hosts, already, settings, report)
    refused = [outcome.host for outcome in first if outcome.reason == "auth"]
    password = ask(refused) if refused else None
    if password is None:
        for outcome in first.not_ok:
            if on_outcome and outcome.reason == "auth":
                on_outcome(outcome)
        return Authorization(first, made)

    def install(connection: HostConnection) -> Result:
        check_shell(connection)
        script = _INSTALL.encode()
        argv = ["sh", "-s", "--", keys[connection.entry], "roomful"]
        result = connection.execute(argv, stdin=script, timeout=settings.login_timeout_seconds).text
        try:
            with connect(connection.entry, settings):
                return "added" if result.endswith("added") else "present"
        except HostFailure as failure:
            detail = f"the key is in ~/.ssh/authorized_keys, but: {failure.detail}"
            fix = " (is the home or ~/.ssh writable by others?)" if failure.reason == "auth" else ""
            raise HostFailure("not-admitted", detail + fix) from failure

    second = {outcome.host: outcome for outcome in HostGroup(refused, settings, password).each(install, on_outcome)}
    return Authorization(Outcomes(second.get(outcome.host, outcome) for outcome in first), made)


def missing_keys(hosts: Sequence[Host], settings: Settings) -> list[Path]:
    """Return the private keys to make: for hosts of whose identity files none is there, nor any in an ssh-agent."""
    wanted = [
        files[0]
        for files in dict.fromkeys(endpoint_of(host, settings).identity_files for host in hosts)
        if not any(os.path.exists(file) or public_key(file) for file in files) and not identities(files)
    ]
    return list(dict.fromkeys(wanted))


def make_key(file: Path) -> Path:
    """Make an ed25519 key without a passphrase.

    Raises RoomfulError with what ssh-keygen said, or MissingProgram.
    """
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "roomful", "-f", str(file)]
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise MissingProgram("ssh-keygen", "apt-get install openssh-client") from None
    except OSError as error:
        raise RoomfulError("cannot make a key", where=str(file), why=error.strerror or str(error)) from error
    if done.returncode != 0:
        why = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise RoomfulError("cannot make a key", where=str(file), why=why)
    return file


def key_of(host: Host, settings: Settings) -> str:
    """Return the public key to install on a host: of its first identity file that is there, else of the ssh-agent.

    Raises InputError where only private keys are found that cannot be read.
    """
    files = endpoint_of(host, settings).identity_files
    for file in files:
        if text := public_key(file):
            return text
    for identity in identities(files):
        return f"{identity.key.get_name()} {identity.key.get_base64()}"
    there = next((file for file in files if os.path.exists(file)), files[0])
    fix = f"make it: ssh-keygen -y -f {there} > {there}.pub"
    raise InputError("the public half of the key is not there", where=f"{there}.pub", fix=fix)
