"""One job of a benchmark on a worker: runs it, says whether its results are whole, and packs all that it left.

Called in the workdir with one argument, a JSON object: ``job`` (its id), ``argv`` (in which ``{workdir}`` and
``{output}`` stand for folders), ``benchmark`` (what its result files' names begin with), ``results`` (what stands
between ``.results.`` and ``.xml`` in each), ``env`` (more variables). Exit code 0: every result is there and whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Mapping, Sequence

from roomful.remote.bench_result import by_result, read_result

#: In the workdir: what is shipped, and what jobs leave.
TOOL, PROGRAMS, OUTPUT = "tool", "bin", "results"
#: In a job's output: what it printed, and what became of it.
LOG, ACCOUNT = "benchexec.log", "job.json"


def archive_name(job: str, attempt: int, host: str) -> str:
    """Return the path of an attempt's archive, relative to the workdir; no job's id holds a "+"."""
    return f"{OUTPUT}/{job}+{attempt}-{re.sub(r'[^A-Za-z0-9.-]+', '_', host)}.zip"


def environment(workdir: str) -> dict[str, str]:
    """Return our own environment with BenchExec's programs and the tool's on PATH."""
    tool = os.path.join(workdir, TOOL)
    inner = [tool, *(entry.path for entry in sorted(_folders(tool), key=lambda entry: entry.name))]
    # An archive holds bin/ itself, or a folder of the tool's name that does.
    places = [place for folder in inner for place in (os.path.join(folder, "bin"), folder) if os.path.isdir(place)]
    path = [os.path.join(workdir, PROGRAMS), *places, os.environ.get("PATH", os.defpath)]
    return {**os.environ, "PATH": os.pathsep.join(path)}


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir() and entry.name != "bin" and entry.name[0] != "."]
    except OSError:
        return []


def filled(argv: Sequence[str], workdir: str, output: str = "") -> list[str]:
    """Put this machine's folders into a command line."""
    return [word.replace("{workdir}", workdir).replace("{output}", output) for word in argv]


def main() -> int:
    """Run a job; returns the exit code."""
    spec = json.loads(sys.argv[1])
    workdir = os.getcwd()
    host, attempt = os.environ["ROOMFUL_HOST"], int(os.environ["ROOMFUL_ATTEMPT"])
    archive = Path(workdir, archive_name(spec["job"], attempt, host))
    folder = archive.with_suffix("")
    # Of an attempt with the same number, before the queue was made anew.
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir(parents=True)
    began, start = time.time(), time.monotonic()
    # A file, because BenchExec writes results without runs when nobody reads what it prints.
    with open(str(folder / LOG), "wb") as log:
        variables = {**environment(workdir), "ROOMFUL_OUTPUT": str(folder), **spec.get("env", {})}
        argv = filled(spec["argv"], workdir, str(folder))
        try:
            code = subprocess.call(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables
            )
        except OSError as error:
            log.write(f"{argv[0]}: {error.strerror}\n".encode())
            code = 127
    faults = _faults(spec, folder)
    account: dict[str, Any] = {
        "job": spec["job"],
        "host": host,
        "attempt": attempt,
        "began": began,
        "seconds": round(time.monotonic() - start, 3),
        "exit_code": code,
        "faults": faults,
    }
    (folder / ACCOUNT).write_text(json.dumps(account, indent=1) + "\n")
    whole = not faults and code == 0
    if not whole:
        _explain(account, (folder / LOG).read_bytes())
    _pack(folder, archive)
    shutil.rmtree(str(folder), ignore_errors=True)
    return 0 if whole else 1


def _faults(spec: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Say of each result that does not count why."""
    files = by_result(folder.rglob("*.xml*"), spec["benchmark"])
    found = {}
    for name in spec["results"]:
        judged = [read_result(path).fault for path in files.get(name, [])]
        if "" not in judged:
            found[name] = judged[0] if judged else "no result file"
    return found


def _explain(account: Mapping[str, Any], log: bytes) -> None:
    lines = log.decode("utf-8", "replace").strip().splitlines()
    words = [f"{name}: {why}" for name, why in account["faults"].items()]
    words += [f"exit code {account['exit_code']}"] if account["exit_code"] else []
    words += [said] if (said := trouble("\n".join(lines))) else []
    sys.stderr.write("\n".join([*lines[-10:], "; ".join(words)]) + "\n")


def trouble(said: str) -> str:
    """Return the line that names the trouble: BenchExec's first one does, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line.partition(mark)[2] for line in lines for mark in (" - CRITICAL - ", " - ERROR - ") if mark in line]
    return told[0] if told else (lines or [""])[-1]


def _pack(folder: Path, archive: Path) -> None:
    """Put a folder into one file, which is there whole or not at all."""
    temporary = archive.with_suffix(".tmp")
    with zipfile.ZipFile(str(temporary), "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                # Archives hold Unicode; a start script may have left names that are none.
                name = os.fsencode(str(path.relative_to(folder))).decode("utf-8", "backslashreplace")
                packed.write(str(path), name)
    with open(str(temporary), "rb") as file:
        os.fsync(file.fileno())
    os.replace(str(temporary), str(archive))


if __name__ == "__main__":
    sys.exit(main())
