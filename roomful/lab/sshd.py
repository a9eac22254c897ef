"""What OpenSSH needs on both ends: keys, sshd_config of each host, ssh_config and known_hosts of the controller."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from roomful.errors import MissingProgram, RoomfulError
from roomful.hosts import write_text_atomically
from roomful.lab.model import Lab, LabHost
from roomful.lab.processes import MARKER
from roomful.openssh import KEX_ALGORITHMS

HOST_KEY = "ssh_host_ed25519_key"
AUTHORIZED_KEYS = "authorized_keys"
#: System folders that an ordinary user's PATH may lack.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
#: What a login on a host finds; the system's python3 first, whatever /usr/local holds.
HOST_PATH = "/usr/bin:/bin:/usr/local/bin"

_COMMON = """\
HostKeyAlgorithms ssh-ed25519
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PrintLastLog no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
AcceptEnv LANG LC_*
LogLevel INFO
"""


def find_program(name: str, package: str) -> str:
    """Return a program's path.

    Raises MissingProgram with the command that installs it.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if not found:
        raise MissingProgram(name, f"apt-get install {package}")
    return found


def sftp_server() -> str:
    """Return the path of OpenSSH's sftp-server; Debian's where there is none to be seen."""
    paths = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
    return next((path for path in paths if os.path.exists(path)), paths[0])


def make_keys(paths: Sequence[Path]) -> None:
    """Create an ed25519 key pair at each of these paths, in parallel.

    Raises RoomfulError with what ssh-keygen said.
    """
    program = find_program("ssh-keygen", "openssh-client")

    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        argv = [
            program,
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            f"roomful lab {path.parent.name}",
            "-f",
            str(path),
        ]
        result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if result.returncode != 0:
            raise RoomfulError(
                "cannot make a key", where=str(path), why=result.stderr.decode(errors="replace").strip()
            )

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(make, paths))


def public_key(path: Path) -> str:
    """Return the public half of a key as ``ssh-ed25519 AAAA...``."""
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def namespace_config(lab: Lab) -> str:
    """Return sshd_config of a host with namespaces: an ordinary Debian server."""
    # sshd takes the first value that it meets.
    password = "PasswordAuthentication yes\n" if lab.options.password else ""
    return (
        f"{password}{_COMMON}Port {lab.port}\n"
        "AddressFamily inet\n"
        f"HostKey /etc/ssh/{HOST_KEY}\n"
        f"AuthorizedKeysFile .ssh/{AUTHORIZED_KEYS} /etc/ssh/{AUTHORIZED_KEYS}\n"
        f"MaxStartups {lab.options.max_startups}\n"
        f"SetEnv PATH={HOST_PATH}\n"
        f"Subsystem sftp {sftp_server()}\n"
    )


def rootless_config(lab: Lab, host: LabHost) -> str:
    """Return sshd_config of a rootless host.

    sshd takes HOME from the password database, starts the user's shell there and runs ``.ssh/rc`` of that home.
    SetEnv comes after it and gives that shell (bash reads ``$HOME/.bashrc`` when sshd starts it) a HOME with nothing
    to read; the forced command then goes to the host's own home.
    """
    folder = lab.host_directory(host.name)
    return _COMMON + (
        f"ListenAddress {host.address}:{lab.port}\n"
        f"HostKey {folder}/etc/{HOST_KEY}\n"
        f"AuthorizedKeysFile {folder}/etc/{AUTHORIZED_KEYS}\n"
        f"MaxStartups {lab.options.max_startups}\n"
        # StrictModes dislikes /tmp above the folder, which the folder's own mode 0700 makes up for.
        "StrictModes no\n"
        "PermitUserRC no\n"
        f"SetEnv HOME={folder}/etc {MARKER}={folder}\n"
        f"ForceCommand {folder}/etc/login\n"
        f"Subsystem sftp {sftp_server()}\n"
    )


def rootless_login(lab: Lab, host: LabHost) -> str:
    """Return the forced command of a rootless host: a clean environment, then what was asked for.

    bash, because that is the shell of the other kind's hosts as well; SHLVL, because bash reads ``.bashrc`` for a
    command only where it believes to be sshd's own child.
    """
    folder = lab.host_directory(host.name)
    return (
        "#!/bin/bash\n"
        "unset XDG_RUNTIME_DIR XDG_CONFIG_HOME XDG_CACHE_HOME MAIL SHLVL OLDPWD\n"
        f"export HOME={folder}/home TMPDIR={folder}/tmp PATH={folder}/bin:{HOST_PATH}\n"
        f"export SHELL=/bin/bash HOSTNAME={host.name}\n"
        'cd "$HOME" || exit 1\n'
        'if [ -z "${SSH_ORIGINAL_COMMAND+set}" ]; then exec -a -bash /bin/bash; fi\n'
        "command=$SSH_ORIGINAL_COMMAND\n"
        "unset SSH_ORIGINAL_COMMAND\n"
        'exec /bin/bash -c "$command"\n'
    )


def client_config(lab: Lab) -> str:
    """Return the ssh_config that reaches every host of the lab, and nothing else."""
    blocks = [
        f"Host {host.name} {host.full_name} {host.address}\n    HostName {host.address}\n" for host in lab.hosts
    ]
    return "".join(blocks) + (
        "Host *\n"
        f"    Port {lab.port}\n"
        f"    User {lab.user}\n"
        f"    IdentityFile {lab.identity_file}\n"
        "    IdentitiesOnly yes\n"
        "    IdentityAgent none\n"
        f"    UserKnownHostsFile {lab.known_hosts}\n"
        "    GlobalKnownHostsFile none\n"
        "    StrictHostKeyChecking yes\n"
        "    PreferredAuthentications publickey\n"
        f"    KexAlgorithms {KEX_ALGORITHMS}\n"
        "    HostKeyAlgorithms ssh-ed25519\n"
    )


def known_hosts_lines(lab: Lab, hosts: Iterable[LabHost]) -> str:
    """Return the lines of known_hosts for these hosts, under every name that they can be called by."""
    lines = []
    for host in hosts:
        names: Sequence[str] = (host.name, host.full_name, host.address)
        if lab.port != 22:
            names = [f"[{name}]:{lab.port}" for name in names]
        key = public_key(lab.host_directory(host.name) / "etc" / HOST_KEY)
        lines.append(f"{','.join(names)} {key}\n")
    return "".join(lines)


def write_client_files(lab: Lab) -> None:
    """Write ssh_config and known_hosts of the lab."""
    write_text_atomically(lab.ssh_config, client_config(lab), mode=0o600)
    write_text_atomically(lab.known_hosts, known_hosts_lines(lab, lab.hosts), mode=0o600)


def write_authorized_keys(lab: Lab, host: LabHost, accept: bool) -> None:
    """Let the lab's key in, or nobody."""
    text = f"{public_key(lab.identity_file)} roomful-lab\n" if accept else ""
    write_text_atomically(lab.host_directory(host.name) / "etc" / AUTHORIZED_KEYS, text)
