"""A room in which hosts are broken in every way that we know, all at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from roomful import lab as labs
from roomful.lab import Lab
from roomful.lab.model import STUDENT_ID
from roomful.lab.namespaces import NamespaceMachines
from tests.support import bad_servers
from tests.support.lab import as_root, change_shell

#: Hosts that are off, and that refuse our key, from the start.
OFF, REFUSE_KEY = ("lab02",), ("lab03",)
#: Faults of the lab's own.
FAULTS = {
    "lab04": "host-key",
    "lab06": "hang",
    "lab10": "disk-full",
    "lab11": "hang-home",
    "lab16": "cut",
    "lab17": "sshd",
    "lab19": "freeze",
    "lab20": "cut-out",
}
#: Servers of ours in the place of sshd.
BAD_SERVERS = {"lab07": "dripping", "lab08": "flooding"}
#: Hosts that nobody can log in to, and why.
UNREACHABLE = {
    "lab02": "timeout",
    "lab03": "auth",
    "lab04": "host-key",
    "lab05": "host-key",
    "lab06": "timeout",
    "lab07": "timeout",
    "lab08": "protocol",
    "lab11": "timeout",
    "lab16": "timeout",
    "lab17": "refused",
    "lab19": "timeout",
    "lab20": "timeout",
    "nowhere": "dns",
}


def home_of(room: Lab, host: str) -> Path:
    """Return the student's home on a host's disk."""
    return room.host_directory(host) / "disk" / "home" / "student"


@contextlib.contextmanager
def broken(room: Lab) -> Iterator[None]:
    """Break the hosts of a fresh lab; the servers in the place of sshd last as long as the block."""
    unknown(room, "lab05")
    os.mkfifo(home_of(room, "lab09") / ".bashrc")
    (home_of(room, "lab09") / ".bashrc").chmod(0o644)
    hide(room, "lab12", "python3")
    noisy = home_of(room, "lab13") / ".bashrc"
    noisy.write_text("echo Welcome to \x1b[31mlab13\n")
    os.chown(noisy, STUDENT_ID, STUDENT_ID)
    change_shell(room, "lab14", "tcsh")
    hide(room, "lab15", "rsync")
    os.chown(home_of(room, "lab18"), 0, 0)
    change_shell(room, "lab21", "fish")
    for host in BAD_SERVERS:
        labs.fail(room.name, host, "sshd")
    for host, how in FAULTS.items():
        labs.fail(room.name, host, how)
    with contextlib.ExitStack() as stack:
        for host, behaviour in BAD_SERVERS.items():
            pid = NamespaceMachines(room).init_pid(room.host(host))
            assert pid
            stack.enter_context(bad_servers.serve_instead(pid, behaviour, room.port))
        yield


def unknown(room: Lab, host: str) -> None:
    """Forget the key of a host."""
    address = room.host(host).address
    lines = room.known_hosts.read_text().splitlines(keepends=True)
    room.known_hosts.write_text("".join(line for line in lines if f",{address} " not in line))


def hide(room: Lab, host: str, program: str) -> None:
    """Let a host have no such program."""
    path = shutil.which(program, path="/usr/bin:/bin")
    assert path
    # A file that cannot be run is passed over by every shell; what the names lead to is one file.
    as_root(room, host, f"for p in {path} /usr/local/bin/{program}; do [ ! -e $p ] || "
            f"mount --bind /etc/machine-id $(realpath $p); done")  # fmt: skip
