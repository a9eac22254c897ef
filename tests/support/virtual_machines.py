"""Machines with a Linux kernel of their own, for what this machine's has not: NFS and cgroup v2.

They are processes (User-mode Linux). Each has this machine's files as they are, with a RAM disk over them for what it
writes; the kernel and the NFS programs come from Debian packages that are unpacked into a folder, so nothing is
installed and nothing is changed. They are wired to one bridge in a network namespace with no way out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Debian's packages; what they depend on and is not installed comes as well.
PACKAGES = ("user-mode-linux", "nfs-kernel-server", "nfs-common", "rpcbind", "kmod")
MEMORY_MB = 512
#: What runs a part of this program in namespaces of its own: however it ends, nothing is left of its machines.
ALONE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
#: Machine number N has this address, and this interface.
NETWORK, INTERFACE = "10.77.0.", "vec0"
#: The first process: lays the RAM disk over this machine's files and becomes the program.
INIT = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc none /proc
{kit}/insmod {modules}/kernel/fs/overlayfs/overlay.ko
mount -t tmpfs none /mnt
mkdir /mnt/files /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/files,workdir=/mnt/work none /mnt/root
mount -t proc none /mnt/root/proc
mount -t sysfs none /mnt/root/sys
mount -t devtmpfs none /mnt/root/dev
mkdir -p /mnt/root/dev/pts /mnt/root/dev/shm
mount -t devpts none /mnt/root/dev/pts
mount -t hostfs none -o {out} /mnt/root/srv
exec chroot /mnt/root {program}
"""


class NoMachines(Exception):
    """Say why there can be no virtual machines here."""


@dataclass
class Kit:
    """The unpacked packages, and what machines are booted with."""

    folder: Path

    @property
    def root(self) -> Path:
        """Where the packages lie unpacked."""
        return self.folder / "root"

    @property
    def modules(self) -> Path:
        """The kernel's modules."""
        return next((self.root / "usr/lib/uml/modules").iterdir())

    @property
    def environment(self) -> dict[str, str]:
        """What programs of the packages are run with."""
        places = [str(self.root / place / "x86_64-linux-gnu") for place in ("usr/lib", "lib")]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(places)}

    def program(self, name: str) -> Path:
        """Return a program of the packages, or of this machine where it is installed. Raises NoMachines."""
        for place in ("usr/sbin", "sbin", "usr/bin", "bin"):
            if (self.root / place / name).exists():
                return self.root / place / name
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if found is None:
            raise NoMachines(f"there is no {name} in Debian's packages")
        return Path(found)

    def get(self) -> None:
        """Download and unpack the packages. Raises NoMachines."""
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise NoMachines("needs root and Debian's apt-get")
        archives = self.folder / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        argv = ["apt-get", "install", "--no-install-recommends", "--download-only", "--reinstall", "-y", "-q"]
        done = subprocess.run(
            [*argv, "-o", f"Dir::Cache::archives={archives}", *PACKAGES], capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = done.stderr.strip().splitlines()
            raise NoMachines(f"cannot download packages: {why[-1] if why else done.returncode}")
        for package in archives.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, self.root], check=True)

    def load(self, module: str) -> None:
        """Load a module, and those that it needs, into the kernel that this runs on."""
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            if Path(path).stem == module:
                for name in [*reversed(needs.split()), path]:
                    if not Path("/sys/module", Path(name).stem.replace("-", "_")).exists():
                        subprocess.run([self.folder / "insmod", self.modules / name], check=True)
                return
        raise NoMachines(f"the kernel has no module {module}")


@contextlib.contextmanager
def kit_in(folder: Path | None) -> Iterator[Kit]:
    """Lend a kit, in this folder or one that goes afterwards; exits with 0, and says why, where there can be none."""
    with tempfile.TemporaryDirectory(prefix="roomful-machines-") as scratch:
        kit = Kit(folder or Path(scratch))
        try:
            if not kit.root.exists():
                kit.get()
        except NoMachines as error:
            print(f"skipped: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(0)
        yield kit


@dataclass
class Machines:
    """The machines of one trial; make it in network, mount and PID namespaces of its own."""

    kit: Kit
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def wire(self) -> None:
        """Make the bridge and what machines are booted with."""
        kit = self.kit
        insmod = kit.folder / "insmod"
        library = kit.environment["LD_LIBRARY_PATH"]
        # kmod does what it is called by.
        (kit.folder / "links").mkdir(exist_ok=True)
        link = kit.folder / "links" / "insmod"
        link.unlink(missing_ok=True)
        link.symlink_to(kit.program("kmod"))
        insmod.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH={library}\nexec {link} "$@"\n')
        insmod.chmod(0o755)
        for line in ("link add vms type bridge", "link set vms up", "link set lo up"):
            subprocess.run(["ip", *line.split()], check=True)

    def boot(self, number: int, program: str, memory_mb: int = MEMORY_MB) -> subprocess.Popen[bytes]:
        """Boot a machine whose first process is ``program``, with a folder of ours as /srv; its console is a file."""
        kit, tap, out = self.kit, f"vm{number}", self.kit.folder / f"machine-{number}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        init = out / "init"
        init.write_text(INIT.format(kit=kit.folder, modules=kit.modules, out=out, program=program))
        init.chmod(0o755)
        for line in (f"tuntap add {tap} mode tap", f"link set {tap} master vms up"):
            subprocess.run(["ip", *line.split()], check=True)
        argv = [
            kit.program("linux.uml"), f"mem={memory_mb}M", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}",
            "con=null", "con0=fd:0,fd:1", f"{INTERFACE}:transport=tap,ifname={tap},depth=128,gro=1", "quiet",
        ]  # fmt: skip
        with (out / "console").open("wb") as console:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "TMPDIR": "/dev/shm"},
            )
        self.processes.append(process)
        return process

    def wait(self, deadline: float) -> None:
        """Wait until one of them has ended, or it is this late."""
        while time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            time.sleep(0.1)

    def console(self, number: int) -> str:
        """Return the end of what a machine wrote to its console."""
        return (self.kit.folder / f"machine-{number}" / "console").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.wait()


def power_off() -> None:
    """Switch the machine off that this runs on."""
    import ctypes

    magic, also_magic, off = 0xFEE1DEAD, 672274793, 0x4321FEDC
    # From a child: the kernel ends the first process in its own way.
    if os.fork() == 0:
        ctypes.CDLL(None).syscall(169, ctypes.c_long(magic), ctypes.c_long(also_magic), ctypes.c_long(off), None)
    os.wait()
