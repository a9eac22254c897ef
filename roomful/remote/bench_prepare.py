"""Make a worker ready for a benchmark: unpack the tool, and see whether BenchExec can measure there.

Called in the workdir with one argument, a JSON object: ``tool`` (its archive; or empty), ``options`` (runexec's) and
``lock`` (the whole machine's, see ``roomful.agent.host_lock``).
Prints a JSON object as its last line: ``ok``, ``refused`` with the reason, or ``locked`` with who has the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Mapping, Sequence

from roomful.agent.host_lock import HostLock
from roomful.remote.bench_job import PROGRAMS, TOOL, environment, filled, trouble

#: BenchExec 3.35 says so of itself.
OLDEST = (3, 10)
#: Seconds for a program that ends at once.
RUN_SECONDS = 60.0


class Refusal(Exception):
    """Say why this machine cannot be a worker."""


def prepare(tool: str, options: Sequence[str]) -> dict[str, Any]:
    """Unpack the tool's archive, and measure a program that does nothing; raises Refusal."""
    if sys.version_info < OLDEST:
        raise Refusal("python3 there is {}.{}, BenchExec needs {}.{}".format(*sys.version_info[:2], *OLDEST))
    workdir = os.getcwd()
    if tool:
        unpack(Path(workdir, tool), Path(workdir, TOOL))
    version = _run([f"{PROGRAMS}/benchexec", "--version"], workdir)
    said = _run([f"{PROGRAMS}/runexec", *filled(options, workdir), "--output", os.devnull, "--", "true"], workdir)
    values = dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)
    if values.get("returnvalue") != "0":
        raise Refusal(f"a trial run did not end well: {trouble(said)}")
    for name in ("cputime", "walltime"):
        if name not in values:
            raise Refusal(f"a trial run was not measured: no {name}")
    return {"version": version.split()[-1], "memory": "memory" in values}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive unless it is there already; what is there is complete. Raises Refusal."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.{os.uname().nodename}.{os.getpid()}")
    shutil.rmtree(str(temporary), ignore_errors=True)
    try:
        if zipfile.is_zipfile(str(archive)):
            _unzip(archive, temporary)
        else:
            shutil.unpack_archive(str(archive.resolve()), str(temporary))
        os.rename(str(temporary), str(folder))
    except (OSError, ValueError, EOFError, shutil.ReadError, tarfile.TarError, zipfile.BadZipFile) as error:
        if not folder.is_dir():
            raise Refusal(f"cannot unpack {archive.name}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(str(archive)) as packed:
        for info in packed.infolist():
            path = packed.extract(info, str(folder))
            # What zipfile itself drops: without it no program of the tool could be started.
            mode = info.external_attr >> 16 & 0o777
            if mode and not info.is_dir():
                os.chmod(path, mode | 0o400)


def _run(argv: Sequence[str], workdir: str) -> str:
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(workdir),
            # It holds the machine's lock too: should we be killed, nobody else measures beside it.
            close_fds=False,
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refusal(f"{os.path.basename(argv[0])} did not end within {RUN_SECONDS:g} s") from None
    except OSError as error:
        raise Refusal(f"{argv[0]}: {error.strerror}") from None
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise Refusal(f"{os.path.basename(argv[0])} failed: {trouble(said) or f'exit {done.returncode}'}")
    return said


def main() -> int:
    """Answer a request."""
    sys.stdout.write(f"\n{json.dumps(answer(json.loads(sys.argv[1])))}\n")
    return 0


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the machine ready while nobody else has it: a trial measures, and disturbs who does."""
    lock = HostLock(request["lock"], "roomful's trial")
    if locked := lock.take():
        return {"locked": locked}
    try:
        return {"ok": prepare(request["tool"], request["options"])}
    except Refusal as refusal:
        return {"refused": str(refusal)}
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
