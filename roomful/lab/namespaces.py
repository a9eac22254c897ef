"""A lab for root: every host has its own network, mount, UTS, IPC and PID namespace.

A host's folder holds its ``disk`` (home, /root, /tmp, /var/tmp, /var/log), which outlives a power cut, and the files
that lie over those of /etc. All else is this machine's own, but for what a real host could not see: this checkout,
/run and other users' homes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roomful.errors import InputError, RoomfulError
from roomful.lab import accounts, cgroups, kernel, network, processes, sshd
from roomful.lab.machines import Machines
from roomful.lab.model import STUDENT, STUDENT_ID, Lab, LabHost

#: Folders of the disk: name, where it appears on the host, mode.
DISK = (
    ("home", "/home", 0o755),
    ("root", "/root", 0o700),
    ("tmp", "/tmp", 0o1777),
    ("var-tmp", "/var/tmp", 0o1777),
    ("log", "/var/log", 0o755),
)
#: On the disk: what takes the rest of it while the host has the fault disk-full.
FILLER = ".full"
HANG = Path(__file__).with_name("hang.py")
CHECKOUT = Path(__file__).parents[2]
#: How long what runs in the controller's namespace has to end before it is killed.
TERMINATE_SECONDS = 2.0


class NamespaceMachines(Machines):
    """The hosts of a lab with namespaces."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._cgroups: dict[str, list[Path]] = {}

    def prepare(self) -> None:
        """Make the network, the cgroups, and every host's disk and files."""
        lab = self.lab
        network.refuse_nesting()
        network.build(lab, accounts.hosts(lab))
        self._cgroups = cgroups.create(lab.options, [host.name for host in lab.hosts], cgroups.mounted())
        common = lab.directory / "etc"
        common.mkdir()
        passwd = accounts.passwd(Path("/etc/passwd").read_text())
        (common / "passwd").write_text(passwd)
        (common / "group").write_text(accounts.group(Path("/etc/group").read_text()))
        (common / "shadow").write_text(accounts.shadow(passwd, lab.options.password))
        (common / "shadow").chmod(0o640)
        (common / "resolv.conf").write_text(network.RESOLV_CONF)
        (common / "hosts").write_text(accounts.hosts(lab))
        if lab.options.shared_home:
            self._make_disk(self._shared)
        for host in lab.hosts:
            folder = lab.host_directory(host.name)
            self._make_disk(folder / "disk")
            (folder / "etc" / "sshd_config").write_text(sshd.namespace_config(lab))
            files = folder / "files"
            files.mkdir()
            (files / "hostname").write_text(f"{host.name}\n")
            (files / "machine-id").write_text(accounts.machine_id(host))

    def spec(self, host: LabHost) -> dict[str, Any]:
        """Return what init.py is told about a host."""
        folder = self.lab.host_directory(host.name)
        if not self._cgroups:
            self._cgroups = cgroups.create(
                self.lab.options, [item.name for item in self.lab.hosts], cgroups.mounted()
            )
        return {
            "isolate": True,
            "cgroups": [str(path) for path in self._cgroups[host.name]],
            "hostname": host.name,
            "mounts": self._mounts(folder),
            "directories": [["/run/sshd", 0o755], ["/run/lock", 0o1777]],
            "empty": [str(folder / "disk" / "tmp")],
            "network": network.host_side(self.lab, host),
            "ip": sshd.find_program("ip", "iproute2"),
            "sshd": [sshd.find_program("sshd", "openssh-server"), "-D", "-e", "-f", "/etc/ssh/sshd_config"],
            "listen": ["0.0.0.0", self.lab.port],
            "environment": {"PATH": sshd.SYSTEM_PATH},
        }

    def wire(self, pids: Mapping[LabHost, int]) -> None:
        """Connect hosts that are starting to the bridge."""
        network.connect(self.lab, pids)

    def switch_off(self, host: LabHost) -> None:
        """Take the link down, then end every process: no packet says that the host is gone."""
        folder = self.lab.host_directory(host.name)
        if self.init_pid(host) is not None:
            network.ip(self.lab.name, [f"link set {host.name} down"])
        processes.send(processes.inits(folder), signal.SIGKILL)
        # What is frozen does not end before it is thawed.
        cgroups.freeze(self.lab.name, host.name, frozen=False)
        processes.kill(lambda: processes.marked(folder))
        # The kernel removes the link with the host's namespace, sooner or later; a new one needs its name now.
        with contextlib.suppress(RoomfulError):
            network.ip(self.lab.name, [f"link del {host.name}"])

    def freeze(self, host: LabHost) -> None:
        """Stop every process of the host, by its cgroup, or one by one."""
        if not cgroups.freeze(self.lab.name, host.name, frozen=True):
            processes.stop(lambda: self._processes(host))

    def thaw(self, host: LabHost) -> None:
        """Let a frozen host go on."""
        if not cgroups.freeze(self.lab.name, host.name, frozen=False):
            processes.send(self._processes(host), signal.SIGCONT)

    def cut(self, host: LabHost, direction: str) -> None:
        """Drop what goes into the host, comes out of it, or both; its link stays up, as behind a broken switch."""
        self.rejoin(host)
        if direction in ("in", "both"):
            network.drop_all(host.name, None, self.lab.name)
        if direction in ("out", "both"):
            network.drop_all("eth0", self.init_pid(host), self.lab.name)

    def rejoin(self, host: LabHost) -> None:
        """Undo ``cut``."""
        pid = self.init_pid(host)
        if pid is not None:
            network.keep_all(host.name, None, self.lab.name)
            network.keep_all("eth0", pid, self.lab.name)

    def fill_disk(self, host: LabHost) -> None:
        """Leave no byte free on the host's disk, and on the shared home where there is one.

        Raises InputError for a lab whose disks have no size: it would fill this machine's.
        """
        if self.lab.options.disk is None:
            fix = "start the lab with --disk 64MB"
            raise InputError("the host's disk has no size of its own", where=host.name, fix=fix)
        for disk in self._disks(host):
            with open(disk / FILLER, "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(65536))
                except OSError:
                    pass

    def free_disk(self, host: LabHost) -> None:
        """Undo ``fill_disk``."""
        for disk in self._disks(host):
            (disk / FILLER).unlink(missing_ok=True)

    def hang_home(self, host: LabHost) -> None:
        """Put a file system that never answers over the user's home.

        Raises RoomfulError where it cannot be mounted.
        """
        folder = self.lab.host_directory(host.name)
        environment = {processes.MARKER: str(folder), "PATH": sshd.SYSTEM_PATH}
        argv = [sys.executable, "-I", "-S", str(HANG), str(self.init_pid(host)), str(self._home)]
        # It stays: a host that is switched off takes it along, as does the end of the lab.
        helper = subprocess.Popen(
            argv, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert helper.stdout is not None
        assert helper.stderr is not None
        with helper.stdout, helper.stderr:
            if helper.stdout.readline() != b"ready\n":
                why = helper.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RoomfulError("the home cannot be made to hang", where=host.name, why=why)

    def answer_home(self, host: LabHost) -> None:
        """Undo ``hang_home``."""
        folder = self.lab.host_directory(host.name)
        processes.end(lambda: processes.marked_running(folder, HANG.name), TERMINATE_SECONDS)

    @property
    def _home(self) -> Path:
        return Path("/root") if self.lab.user == "root" else Path("/home") / STUDENT

    @property
    def _shared(self) -> Path:
        return self.lab.directory / "shared"

    def _disks(self, host: LabHost) -> list[Path]:
        own = self.lab.host_directory(host.name) / "disk"
        return [own, self._shared] if self.lab.options.shared_home else [own]

    def _make_disk(self, disk: Path) -> None:
        disk.mkdir()
        if self.lab.options.disk is not None:
            kernel.mount("roomful-lab", disk, "tmpfs", data=f"size={self.lab.options.disk},mode=755")
        for name, _, mode in DISK:
            (disk / name).mkdir()
            (disk / name).chmod(mode)
        home = disk / "home" / STUDENT
        home.mkdir(mode=0o755)
        os.chown(home, STUDENT_ID, STUDENT_ID)

    def _mounts(self, folder: Path) -> list[list[Any]]:
        common = self.lab.directory / "etc"
        sources: dict[str, Path] = {point: folder / "disk" / name for name, point, _ in DISK}
        if self.lab.options.shared_home:
            sources["/home"] = self._shared / "home"
        sources |= {f"/etc/{name}": common / name for name in ("passwd", "group", "shadow", "hosts", "resolv.conf")}
        sources |= {f"/etc/{name}": folder / "files" / name for name in ("hostname", "machine-id")}
        sources["/etc/ssh"] = folder / "etc"
        # /run comes after all that lies in it; /tmp and the like hide a checkout that lies in them.
        return [
            *(["bind", str(source), point, 0, ""] for point, source in sources.items()),
            ["tmpfs", "tmpfs", "/dev/shm", 0, "mode=1777"],
            ["devpts", "devpts", "/dev/pts", 0, "newinstance,ptmxmode=0666,mode=620,gid=5"],
            ["proc", "proc", "/proc", 0, ""],
            ["tmpfs", "tmpfs", str(CHECKOUT), 1, "mode=555"],
            ["tmpfs", "tmpfs", "/run", 0, "mode=755"],
        ]

    def _processes(self, host: LabHost) -> set[int]:
        """Every process in the host's PID namespace."""
        return processes.with_descendants(processes.inits(self.lab.host_directory(host.name)))


def traces(name: str) -> bool:
    """Tell whether anything of a lab with namespaces of this name is there besides its folder."""
    return network.exists(name) or cgroups.exists(name)


def teardown(name: str, directory: Path) -> None:
    """Remove a lab with namespaces but for its folder, whatever state it is in, from its name alone."""
    processes.send(processes.inits(directory), signal.SIGKILL)
    cgroups.thaw_all(name)
    processes.kill(lambda: processes.marked(directory))
    processes.end(lambda: network.processes(name) - processes.own_line(), TERMINATE_SECONDS)
    network.remove(name)
    kernel.unmount_below(directory)
    cgroups.remove(name)
