"""The first process of a lab host: makes it a machine of its own, runs its sshd, and buries the dead.

Started as a script by the interpreter itself (``python -I -S init.py HOST_DIRECTORY``), so it imports only the
standard library, and little of it: 64 of these start at once. It reads ``spec.json`` in the host's folder:

``isolate``     true: own mount, UTS, IPC, network and PID namespace, of which it becomes PID 1
``cgroups``     folders of cgroups to enter first
``hostname``    name in the UTS namespace
``mounts``      ``[type, source, target, flags, data]`` in order; type "bind" for a bind mount
``directories`` ``[path, mode]`` made after mounting
``empty``       folders whose content is deleted at every start
``network``     commands for ``ip -batch``, or "" for none
``sshd``        argv of the OpenSSH server, in the foreground
``listen``      ``[address, port]`` of the same, for the service "mute"
``environment`` of sshd

It prints its process id, as its starter sees it, and waits for the line ``go``. From then on the file ``service``
says what listens on the host's SSH port, and SIGHUP makes it read that again:

``sshd``   the OpenSSH server
``mute``   a socket that takes connections and never says a word
``none``   nothing

What it has done it writes to ``status``: the wish it has carried out, as it was read.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 10 ms to import
    from typing import Any

#: mount(2)
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
#: unshare(2): mount, UTS, IPC, network, PID
NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x40000000 | 0x20000000
#: prctl(2): orphans below this process become its children
PR_SET_CHILD_SUBREAPER = 36

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a libc function that returns 0; raise OSError with what was tried."""
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"{name}{arguments!r}")


def mount(kind: str, source: str, target: str, flags: int, data: str) -> None:
    """Mount as mount(2) does; a target that does not exist on this machine is nothing to hide or replace."""
    if not os.path.exists(target):
        return
    target = os.path.realpath(target)
    if kind == "bind":
        call("mount", source.encode(), target.encode(), None, ctypes.c_ulong(MS_BIND), None)
        if flags:
            again = ctypes.c_ulong(MS_BIND | MS_REMOUNT | flags)
            call("mount", None, target.encode(), None, again, None)
    else:
        call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def empty(folder: str) -> None:
    """Delete what is in a folder; what a booting machine does to /tmp."""
    import shutil

    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def build(spec: dict[str, Any]) -> None:
    """Make the namespaces look like a machine of its own."""
    for folder in spec["empty"]:
        empty(folder)
    if not spec["isolate"]:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return
    socket.sethostname(spec["hostname"])
    # What this machine unmounts later goes here too; what is mounted here stays here.
    call("mount", None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None)
    for entry in spec["mounts"]:
        mount(*entry)
    for path, mode in spec["directories"]:
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)


def spawn(argv: list[str], environment: dict[str, str], stdin: int) -> int:
    """Start a program with no signal blocked, reading from this descriptor, writing to our log."""
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigmask=[], setsigdef=[signal.SIGPIPE])


class Service:
    """What listens on the host's SSH port."""

    def __init__(self, spec: dict[str, Any], folder: int, null: int) -> None:
        self.spec = spec
        self.folder = folder
        self.null = null
        self.sshd = 0
        self.listener: socket.socket | None = None

    def apply(self) -> None:
        """Carry out what the file ``service`` says."""
        with open(os.open("service", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.folder)) as file:
            wish = file.read()
        wanted = wish.split()[0]
        if wanted != "sshd" and self.sshd:
            os.kill(self.sshd, signal.SIGKILL)
            os.waitpid(self.sshd, 0)
            self.sshd = 0
        if wanted != "mute" and self.listener:
            self.listener.close()
            self.listener = None
        if wanted == "sshd" and not self.sshd:
            self.sshd = spawn(self.spec["sshd"], self.spec["environment"], self.null)
        if wanted == "mute" and not self.listener:
            # Nobody ever accepts: the kernel completes the handshakes by itself, and nothing is said.
            self.listener = socket.create_server(tuple(self.spec["listen"]), backlog=4096)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with open(os.open("status.new", flags, 0o600, dir_fd=self.folder), "w") as file:
            file.write(wish)
        os.rename("status.new", "status", src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def bury(self) -> None:
        """Reap every child that has ended."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.sshd:
                self.sshd = 0


def run(spec: dict[str, Any], folder: int) -> None:
    """Be the host until killed."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    signals = (signal.SIGCHLD, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    build(spec)
    # An end of file instead of "go" is a starter that died: a host that nobody waits for must not appear.
    if sys.stdin.readline() != "go\n":
        return
    os.dup2(null, 0)
    if spec["network"]:
        source, target = os.pipe()
        os.write(target, spec["network"].encode())
        os.close(target)
        pid = spawn([spec["ip"], "-batch", "-"], {}, source)
        os.close(source)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise SystemExit("the host's network could not be set up")
    service = Service(spec, folder, null)
    service.apply()
    while True:
        if signal.sigwait(signals) == signal.SIGHUP:
            service.apply()
        service.bury()


def main(path: str) -> None:
    """Start the host in the background and print its process id."""
    with open(os.path.join(path, "spec.json")) as file:
        spec = json.load(file)
    # Everything below is reached through this descriptor: the host itself cannot see its own folder.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for cgroup in spec["cgroups"]:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
            file.write("0")
    if spec["isolate"]:
        call("unshare", NEW_NAMESPACES)
    pid = os.fork()
    if pid:
        os.write(1, b"%d\n" % pid)
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)
    run(spec, folder)


if __name__ == "__main__":
    main(sys.argv[1])
