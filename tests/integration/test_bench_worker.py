"""What runs on a benchmark's worker: unpacking the tool, and telling whether a job's results are whole."""

from __future__ import annotations

import bz2
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from roomful.remote import bench_job
from roomful.remote.bench_prepare import Refusal, unpack

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


def test_a_program_that_is_not_there_is_an_end_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"job": "j", "argv": ["./nosuch"], "benchmark": "def", "results": ["a"]}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["job", json.dumps(spec)])
    monkeypatch.setenv("ROOMFUL_HOST", "h")
    monkeypatch.setenv("ROOMFUL_ATTEMPT", "1")
    assert bench_job.main() == 1
