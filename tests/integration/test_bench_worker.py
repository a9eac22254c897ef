"""What runs on a benchmark's worker: unpacking the tool, and telling whether a job's results are whole."""

from __future__ import annotations

import bz2
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from roomful.agent.host_lock import HostLock, holder
from roomful.remote import bench_job
from roomful.remote.bench_prepare import Refusal, answer, unpack
from tests.support.waiting import wait_until

WHOLE = '<result><run name="x"><column title="status" value="true"/></run></result>'
MARKED = WHOLE.replace("<result>", '<result error="interrupted">')
STAMP = "def.2026-01-02_03-04-05.results"


def test_the_tools_bin_comes_first_on_path_wherever_it_stands_in_the_archive(tmp_path: Path) -> None:
    for name in ("tool/cpa-1.0/bin", "tool/bin", "bin"):
        (tmp_path / name).mkdir(parents=True)
    places = bench_job.environment(str(tmp_path))["PATH"].split(":")
    here = [place.removeprefix(str(tmp_path)) for place in places if place.startswith(str(tmp_path))]
    assert here == ["/bin", "/tool/bin", "/tool", "/tool/cpa-1.0/bin", "/tool/cpa-1.0"]


@pytest.mark.parametrize("kind", ["t.zip", "t.tar", "t.tar.gz", "t.tgz", "t.tar.xz"])
def test_archives_are_unpacked_once_with_their_programs_executable(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    archive = tmp_path / kind
    if kind == "t.zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.write(program, "t/run")
    else:
        mode = {"t.tar": "w", "t.tar.xz": "w:xz"}.get(kind, "w:gz")
        with tarfile.open(archive, mode) as packed:  # type: ignore[call-overload]  # the mode is not a literal
            packed.add(program, "t/run")
    unpack(archive, tmp_path / "tool")
    assert (tmp_path / "tool" / "t" / "run").stat().st_mode & 0o777 == 0o755
    archive.write_text("not an archive any more")
    unpack(archive, tmp_path / "tool")


def test_a_broken_archive_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.tar.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(Refusal, match=r"cannot unpack t\.tar\.gz: "):
        unpack(tmp_path / "t.tar.gz", tmp_path / "tool")
    (tmp_path / "t.what").write_bytes(b"?")
    with pytest.raises(Refusal, match=r"cannot unpack t\.what: "):
        unpack(tmp_path / "t.what", tmp_path / "tool")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.tar.gz", "t.what"]


def trial(folder: Path, monkeypatch: pytest.MonkeyPatch, lock: Path) -> dict[str, Any]:
    """Make a folder ready whose runexec notes that it ran, and who had the machine then."""
    (folder / "bin").mkdir()
    noted = "; flock -n {0} true && echo free >>{1} || echo held >>{1}".format(lock, folder / "ran")
    for name, said in (("benchexec", "echo benchexec 3.35"), ("runexec", "printf 'returnvalue=0\ncputime=1s\n'")):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{said}{noted}\necho walltime=1s 3.35\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.chdir(folder)
    return answer({"tool": "", "options": [], "lock": str(lock)})


def test_the_machine_is_ours_alone_during_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trial(tmp_path, monkeypatch, tmp_path / "lock") == {"ok": {"version": "3.35", "memory": False}}
    assert (tmp_path / "ran").read_text().split() == ["held", "held"]
    assert holder(str(tmp_path / "lock")) == ""


def test_nothing_runs_on_a_machine_that_others_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = HostLock(str(tmp_path / "lock"), "their script")
    assert other.take() == ""
    try:
        said = trial(tmp_path, monkeypatch, tmp_path / "lock")
    finally:
        other.release()
    assert "(their script) since" in said["locked"]
    assert not (tmp_path / "ran").exists()


def test_a_trial_whose_parent_was_killed_still_has_the_machine(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    lock, ran = tmp_path / "lock", tmp_path / "ran"
    killing = (
        f"kill -9 $PPID; flock -n {lock} true && echo free >{ran}.new || echo held >{ran}.new; mv {ran}.new {ran}"
    )
    (tmp_path / "bin" / "benchexec").write_text(f"#!/bin/sh\n{killing}\n")
    (tmp_path / "bin" / "benchexec").chmod(0o755)
    argv = [sys.executable, "-m", "roomful.remote.bench_prepare"]
    request = json.dumps({"tool": "", "options": [], "lock": str(lock)})
    environment = {**os.environ, "PYTHONPATH": str(Path(bench_job.__file__).parents[2])}
    done = subprocess.run([*argv, request], cwd=tmp_path, env=environment, check=False, timeout=20)
    assert done.returncode == -9
    wait_until(ran.exists, 10)
    assert ran.read_text() == "held\n"


def run_job(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: int = 0) -> tuple[int, Any]:
    """Run a job whose program is a line of Python; return its exit code and what it says of itself."""
    argv = [sys.executable, "-c", f"import sys; out = sys.argv[1]\n{program}\nsys.exit({code})", "{output}"]
    spec = {"job": "j", "argv": argv, "benchmark": "def", "results": ["r.a", "r.b"]}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["job", json.dumps(spec)])
    monkeypatch.setenv("ROOMFUL_HOST", "me@host:22")
    monkeypatch.setenv("ROOMFUL_ATTEMPT", "2")
    ended = bench_job.main()
    with zipfile.ZipFile(folder / "results" / "j+2-me_host_22.zip") as packed:
        assert not (folder / "results" / "j+2-me_host_22").exists()
        return ended, json.loads(packed.read("job.json"))


def writing(**texts: str) -> str:
    """Python that writes result files."""
    return "\n".join(
        f"open(f'{{out}}/{STAMP}.r.{name}.xml.bz2', 'wb').write({bz2.compress(text.encode())!r})"
        for name, text in texts.items()
    )


def test_a_job_with_whole_results_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, account = run_job(tmp_path, monkeypatch, writing(a=WHOLE, b=WHOLE))
    assert (code, account["faults"], account["attempt"], account["host"]) == (0, {}, 2, "me@host:22")


@pytest.mark.parametrize(
    ("program", "code", "faults"),
    [
        (writing(a=WHOLE), 0, {"r.b": "no result file"}),
        (
            writing(a=WHOLE, b=WHOLE.replace("<result>", '<result error="interrupted">')),
            0,
            {"r.b": "BenchExec marked"},
        ),
        (writing(a=WHOLE, b="<result/>"), 0, {"r.b": "has no runs"}),
        (writing(a=WHOLE, b=WHOLE[:-9]), 0, {"r.b": "is cut off"}),
        (writing(a=WHOLE, b=WHOLE), 3, {}),
    ],
)
def test_exit_code_0_alone_proves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    code: int,
    faults: dict[str, str],
) -> None:
    ended, account = run_job(tmp_path, monkeypatch, program, code)
    found = account["faults"]
    assert (ended, found.keys()) == (1, faults.keys())
    assert all(found[name].startswith(why) for name, why in faults.items())
    assert ("exit code 3" if code else next(iter(faults.values()))) in capsys.readouterr().err


def test_names_that_are_not_unicode_are_packed_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = "import os; open(os.fsencode(out) + b'/x\\xff', 'w').close()\n"
    assert run_job(tmp_path, monkeypatch, leave + writing(a=WHOLE, b=WHOLE))[0] == 0
    with zipfile.ZipFile(tmp_path / "results" / "j+2-me_host_22.zip") as packed:
        assert "x\\xff" in packed.namelist()


def test_what_benchexec_says_of_a_failure_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = 'print("2026-01-01 00:00:00 - ERROR - Unsupported tool: x"); print("usage")'
    assert run_job(tmp_path, monkeypatch, said, 1)[0] == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "r.a: no result file; r.b: no result file; exit code 1; Unsupported tool: x"


def test_a_program_that_is_not_there_is_an_end_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"job": "j", "argv": ["./nosuch"], "benchmark": "def", "results": ["a"]}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["job", json.dumps(spec)])
    monkeypatch.setenv("ROOMFUL_HOST", "h")
    monkeypatch.setenv("ROOMFUL_ATTEMPT", "1")
    assert bench_job.main() == 1
