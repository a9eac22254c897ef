"""What runs in the machines of the NFS trial (`tests.bench.nfs`): an NFS server, a worker with sshd, and the caller.

It is their first process. The caller has what the worker writes in its caches and the other way round, lets one of
them change it, and counts how often the other sees what was there before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.dispatcher import install
from tests.support.virtual_machines import INTERFACE, NETWORK, Kit, power_off

SERVER, WORKER, CALLER = 1, 2, 3
CHECKOUT = Path(__file__).parents[2]
#: Where the shared folder is on both clients.
SHARED = Path("/shared")
#: What switches dsh's protection off in a copy of the code: file, what stands there, what replaces it.
SWITCH_OFF = ("remote/visit.py", "\n    seen: set[str] = set()\n", "\n    return 0\n    seen: set[str] = set()\n")


def say(text: str) -> None:
    """Write to the console."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def call(*argv: object, **options: object) -> None:
    """Run a program that must succeed."""
    subprocess.run([str(word) for word in argv], check=True, **options)  # type: ignore[call-overload]


def network(kit: Kit, number: int) -> None:
    """Load what the kernel needs and take our address."""
    for module in ("nfsd",) if number == SERVER else ("nfsv3", "nfsv4"):
        kit.load(module)
    for folder in ("/run", "/tmp/here", "/var/lib/nfs"):
        Path(folder).mkdir(exist_ok=True)
        call("mount", "-t", "tmpfs", "none", folder)
    for line in ("link set lo up", f"link set {INTERFACE} up", f"addr add {NETWORK}{number}/24 dev {INTERFACE}"):
        call("ip", *line.split())


def serve(kit: Kit) -> None:
    """Export a RAM disk."""
    Path("/export").mkdir()
    call("mount", "-t", "tmpfs", "none", "/export")
    call("mount", "-t", "nfsd", "none", "/proc/fs/nfsd")
    for name in ("etab", "rmtab", "xtab"):
        Path("/var/lib/nfs", name).touch()
    Path("/etc/exports").write_text("/export *(rw,no_root_squash,no_subtree_check,sync,fsid=0)\n")
    environment = kit.environment
    with open("/etc/passwd", "a") as users:
        users.write("_rpc:x:65533:65534::/run/rpcbind:/usr/sbin/nologin\n")
    call(kit.program("rpcbind"), env=environment)
    call(kit.program("exportfs"), "-r", env=environment)
    call(kit.program("rpc.mountd"), env=environment)
    call(kit.program("rpc.nfsd"), "--grace-time", "10", "8", env=environment)
    # No client of before is waited for.
    with contextlib.suppress(OSError):
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
    say("serving")


def mount(kit: Kit, options: str) -> None:
    """Mount what the server exports, once it is there."""
    SHARED.mkdir(exist_ok=True)
    # What is exported as fsid=0 is the root of NFS 4's tree.
    folder = "/export" if options.startswith("vers=3") else "/"
    argv = [kit.program("mount.nfs"), f"{NETWORK}{SERVER}:{folder}", SHARED, "-o", options]
    deadline = time.monotonic() + 40
    while subprocess.run(argv, env=kit.environment, check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"cannot mount with {options}")
        time.sleep(0.3)


def work(kit: Kit, options: str) -> None:
    """Answer SSH on the worker."""
    mount(kit, options)
    Path("/run/sshd").mkdir()
    keys = kit.folder / "keys"
    words = {"HostKey": keys / "host", "AuthorizedKeysFile": keys / "user.pub", "StrictModes": "no", "UsePAM": "no"}
    config = Path("/run/sshd_config")
    config.write_text("".join(f"{name} {value}\n" for name, value in words.items()))
    config.write_text(config.read_text() + "PermitRootLogin yes\nSubsystem sftp internal-sftp\nMaxStartups 100\n")
    call("/usr/sbin/sshd", "-f", config)


class Caller:
    """The caller's side: a project with a dispatcher, and the trial."""

    def __init__(self, kit: Kit, code: Path, name: str) -> None:
        self.folder = Path("/tmp/here", name)
        self.folder.mkdir()
        programs = install(self.folder / "python")
        packages = next(self.folder.glob("python/lib/*/site-packages"))
        (packages / "roomful").unlink()
        (packages / "roomful").symlink_to(code / "roomful")
        known = self.folder / "known_hosts"
        known.write_text(f"{NETWORK}{WORKER} {(kit.folder / 'keys/host.pub').read_text()}")
        key = self.folder / "key"
        shutil.copy(kit.folder / "keys/user", key)
        key.chmod(0o600)
        project = self.folder / "project"
        (project / "host_lists").mkdir(parents=True)
        (project / "host_lists/vm.txt").write_text(f"root@{NETWORK}{WORKER}\n")
        (project / "tasks.py").write_text("from fabfile import ns\n\n__all__ = ['ns']\n")
        settings = {"known_hosts": str(known), "identity_file": str(key), "ssh_config": "/dev/null", "hosts": "vm"}
        settings |= {"connect_timeout_seconds": 30, "login_timeout_seconds": 60}  # type: ignore[dict-item]
        (project / "invoke.yaml").write_text(json.dumps({"roomful": settings}))
        self.dsh = str(programs / "dsh")
        self.environment = {
            **os.environ,
            "HOME": str(self.folder),
            "PYTHONPATH": str(code),
            "ROOMFUL_PROJECT": str(project),
            "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        self.inv = [sys.executable, "-m", "invoke"]
        done = subprocess.run(
            [*self.inv, "start-dispatcher", "--hosts", "vm"], cwd=project, env=self.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.project = project
        deadline = time.monotonic() + 90
        while subprocess.run([self.dsh, "-n", "true"], cwd="/", env=self.environment, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(f"no dispatcher: {done.stderr}")
            time.sleep(0.5)

    def there(self, folder: Path, *argv: str) -> str:
        """Run a command there; returns what it prints, and nothing where it fails."""
        while True:
            done = subprocess.run(
                [self.dsh, *argv], cwd=folder, env={**self.environment, "PWD": str(folder)},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            # An emulated machine may be too slow to report its load in time.
            if "no host for" not in done.stderr:
                break
            time.sleep(0.5)
        if done.returncode == 125:
            raise SystemExit(f"dsh {shlex.join(argv)}: {done.stderr}")
        return done.stdout if done.returncode == 0 else ""

    def close(self) -> None:
        """End the dispatcher."""
        call(*self.inv, "stop-dispatcher", cwd=self.project, env=self.environment, stderr=subprocess.DEVNULL)


def here(folder: Path, *argv: str) -> str:
    """Run a command here, as `Caller.there` runs it there."""
    done = subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


#: Name: what is there before, how it is looked at, how it is changed. What is looked at must differ after the change.
#: ``$N`` is the round. Looked at twice, so that the looking side has its caches full.
CASES = {
    "new file": ("true", "cat f", "echo new $N > f"),
    "new file, by stat": ("true", "stat -c %s f", "echo new $N > f"),
    "overwritten, same size": ("echo old $N > f", "cat f", "echo new $N > f"),
    "overwritten, by stat": ("echo old $N > f", "stat -c %s f", "echo longer than before > f"),
    "appended, by stat": ("echo old $N > f", "stat -c %s f", "echo more >> f"),
    "replaced by a rename": ("echo old $N > f; echo newer $N > g", "cat f", "mv g f"),
    "deleted": ("echo old $N > f", "test ! -e f && echo gone || echo there", "rm f"),
    "new folder": ("true", "cat d/f", "mkdir d; echo new $N > d/f"),
    "file in a folder, by stat": ("mkdir d; echo old > d/f", "stat -c %s d/f", "echo longer than before > d/f"),
    "folder replaced": (
        "mkdir -p a/b; echo old > a/b/f",
        "cat a/b/f",
        "mv a x; mkdir -p a/b; echo new > a/b/f",
    ),
    "listing": ("echo > f", "ls", "rm f; echo > g; echo > h"),
}


def rounds(caller: Caller, base: Path, count: int) -> Iterator[tuple[str, str, bool]]:
    """Yield every trial: direction, case, and whether what was seen is what was there before or something else."""
    for number in range(count):
        for name, (before, look, change) in CASES.items():
            for direction in ("here to there", "there to here"):
                for style in ("named", "in a script"):
                    folder = base / f"{number} {name} {direction} {style}"
                    folder.mkdir()
                    writes_here = direction == "here to there"

                    def run(
                        line: str, at_home: bool, folder: Path = folder, style: str = style, number: int = number
                    ) -> str:
                        line = line.replace("$N", str(number))
                        if at_home:
                            return here(folder, "sh", "-c", line)
                        if style == "in a script":
                            script = SHARED / "scripts" / f"{abs(hash(line))}"
                            script.parent.mkdir(exist_ok=True)
                            if not script.exists():
                                script.write_text(line)
                            return caller.there(folder, "sh", str(script))
                        words = shlex.split(line)
                        plain = words[0] in ("cat", "stat", "ls")
                        return caller.there(folder, *words) if plain else caller.there(folder, "sh", "-c", line)

                    run(before, writes_here)
                    for _ in range(2):
                        seen_before = run(look, not writes_here)
                    run(change, writes_here)
                    seen = run(look, not writes_here)
                    true = run(look, writes_here)
                    if true == seen_before:
                        raise SystemExit(f"{name}: nothing has changed: {true!r}")
                    yield direction, f"{name}, {style}", seen == true


def trial(kit: Kit, options: str, count: int, report: Callable[[dict[str, object]], None]) -> None:
    """Count stale looks with dsh's protection and without."""
    mount(kit, options)
    say(next(line for line in Path("/proc/mounts").read_text().splitlines() if str(SHARED) in line))
    off = Path("/tmp/here/off")
    for name in ("roomful", "fabfile"):
        shutil.copytree(CHECKOUT / name, off / name, ignore=shutil.ignore_patterns("__pycache__"))
    file, old, new = SWITCH_OFF
    path = off / "roomful" / file
    text = path.read_text()
    if old not in text:
        raise SystemExit(f"{file} has no {old!r}")
    path.write_text(text.replace(old, new))
    for protection, code in (("off", off), ("on", CHECKOUT)):
        base = SHARED / protection
        base.mkdir()
        say(f"protection {protection}")
        caller = Caller(kit, code, f"caller-{protection}")
        say("the dispatcher is ready")
        begin = time.monotonic()
        total = 0
        for direction, case, good in rounds(caller, base, count if protection == "on" else 1):
            report({"protection": protection, "direction": direction, "case": case, "good": good})
            total += 1
        say(f"{protection}: {total} in {time.monotonic() - begin:.1f} s")
        caller.close()


def main() -> None:
    """Play a machine's part: ``ROLE OPTIONS ROUNDS FOLDER``."""
    role, options, count, folder = sys.argv[1:]
    kit = Kit(Path(folder))
    number = {"server": SERVER, "worker": WORKER, "caller": CALLER}[role]
    try:
        network(kit, number)
        if role == "server":
            serve(kit)
        elif role == "worker":
            work(kit, options)
        else:
            with open("/srv/result", "w") as result:

                def report(row: dict[str, object]) -> None:
                    result.write(json.dumps(row) + "\n")
                    result.flush()

                trial(kit, options, count=int(count), report=report)
                report({"done": True})
    except BaseException as error:  # the first process must not end: its kernel would
        say(f"{role} failed: {''.join(traceback.format_exception(error))}")
    else:
        if role != "caller":
            say(f"{role} is ready")
            while True:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, 0)
                time.sleep(0.05)
    sys.stdout.flush()
    power_off()


if __name__ == "__main__":
    main()
