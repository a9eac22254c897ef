"""Which result files count, why the others do not, and what table-generator is told of them."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from xml.etree import ElementTree

import pytest

from roomful.benchexec.definition import Definition, RunDefinition, TaskSet
from roomful.benchexec.judge import Finding, ResultFile, judge, read_result, runs_in
from roomful.benchexec.plan import Plan, make_plan
from roomful.benchexec.table import repeated, table_definition

RUN = '<run name="../c/1.c"><column title="cputime" value="1s"/><column title="status" value="true"/></run>'
UNMEASURED = '<run name="../c/2.c"><column title="status" value=""/></run>'


def result(runs: str = RUN, attributes: str = "", host: str = "lab01") -> bytes:
    machine = f'<systeminfo hostname="{host}"><cpu model="EPYC"/></systeminfo>'
    return f"<result {attributes}>{machine}{runs}</result>".encode()


def file_name(of: str, when: str = "2026-11-21_08-00-00", name: str = "def") -> str:
    return f"{name}.{when}.results.{of}.xml.bz2"


@pytest.fixture
def plan() -> Plan:
    sets = (TaskSet("a", 1), TaskSet("b", 1))
    return make_plan(Definition(Path("def.xml"), "dummy", (RunDefinition("r", sets),)))


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bz2.compress(content))
    return folder / name


def test_results_of_different_runs_are_noticed(plan: Plan, tmp_path: Path) -> None:
    put(tmp_path, file_name("r.a", name="def.one"), result())
    assert runs_in(judge(plan, tmp_path)) == ["def.one"]
    put(tmp_path, file_name("r.b", name="def.two.2026-x"), result())
    put(tmp_path, file_name("r.b", "2020-01-01_00-00-00", "def.old"), result())
    assert runs_in(judge(plan, tmp_path)) == ["def.one", "def.two.2026-x"]


def test_what_is_whole_counts_wherever_it_lies(plan: Plan, tmp_path: Path) -> None:
    path = put(tmp_path / "lab01" / "out", file_name("r.a"), result(RUN * 2))
    one, other = judge(plan, tmp_path)
    assert (one.job, one.run_definition, one.task_set, one.why) == ("a", "r", "a", "")
    assert one.file == ResultFile(path, "", "lab01", "EPYC", (("../c/1.c", "true"),) * 2, (("../c/1.c", "", ""),) * 2)
    assert one.file.counts == {"true": 2}
    assert (other.file, other.why) == (None, "no result file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (result(attributes='error="incomplete"'), "BenchExec marked it: incomplete"),
        (result(attributes='error="interrupted"'), "BenchExec marked it: interrupted"),
        (result(""), "has no runs"),
        (result(RUN + UNMEASURED), "1 of 2 runs have no status, such as ../c/2.c"),
        (result(RUN + '<run name="x"/>'), "1 of 2 runs have no status, such as x"),
        (result()[:-9], "is cut off: "),
        (b"", "is cut off: "),
        (b"<html/>", "is no result file: its root is <html>"),
        (b'<?xml version="1.0" encoding="latin-99"?><result/>', "is no XML: unknown encoding"),
    ],
    ids=["incomplete", "interrupted", "no runs", "status empty", "no status", "cut", "empty", "another", "encoding"],
)
def test_what_is_not_whole_does_not_count(plan: Plan, tmp_path: Path, content: bytes, why: str) -> None:
    path = put(tmp_path, file_name("r.a"), content)
    finding = judge(plan, tmp_path)[0]
    assert finding.file is None
    assert finding.why.startswith(why)
    assert finding.others == (path,)


@pytest.mark.parametrize("packed", [bz2.compress(result()), gzip.compress(result())], ids=["bz2", "gz"])
def test_a_packed_file_that_is_cut_off_does_not_count(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / f"x.xml.{'bz2' if packed[:2] == b'BZ' else 'gz'}"
    path.write_bytes(packed)
    assert read_result(path).fault == ""
    path.write_bytes(packed[:-10])
    assert read_result(path).fault.startswith("is cut off: ")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert read_result(tmp_path / "gone.xml").fault == "cannot be read: No such file or directory"


def test_of_several_the_newest_that_is_whole_counts(plan: Plan, tmp_path: Path) -> None:
    old = put(tmp_path / "1", file_name("r.a", "2026-11-20_08-00-00"), result(host="old"))
    new = put(tmp_path / "2", file_name("r.a", "2026-11-21_08-00-00"), result(host="new"))
    broken = put(tmp_path / "0", file_name("r.a", "2026-11-22_08-00-00"), result("", host="broken"))
    finding = judge(plan, tmp_path)[0]
    assert finding.file is not None
    assert finding.file.path == new
    assert finding.others == (broken, old)


def test_only_files_of_this_benchmark_count_with_or_without_a_name_of_the_run(plan: Plan, tmp_path: Path) -> None:
    put(tmp_path, file_name("r.a", name="undef"), result())
    put(tmp_path, file_name("xr.a"), result())
    put(tmp_path, f"{file_name('r.a')}.tmp", result())
    assert judge(plan, tmp_path)[0].why == "no result file"
    put(tmp_path, file_name("r.a", name="def.my.name"), result())
    assert judge(plan, tmp_path)[0].file is not None


def test_the_report_has_a_column_group_a_run_definition() -> None:
    files = [ResultFile(Path(f"/x$HOME/f[1]*/{number}.xml.bz2")) for number in range(3)]
    findings = [
        Finding("a", "r", "a", files[0]),
        Finding("a", "s", "a", files[1]),
        Finding("b", "r", "b", files[2]),
        Finding("b", "s", "b", None, "no result file"),
    ]
    root = ElementTree.fromstring(table_definition(findings, "def"))
    assert [column.get("title") for column in root.findall("column")] == ["status", "cputime", "walltime", "memory"]
    found = {one.get("title"): [each.get("filename") for each in one] for one in root.findall("union")}
    assert found == {
        "r": [f"/x[$]HOME/f[[]1][*]/{number}.xml.bz2" for number in (0, 2)],
        "s": ["/x[$]HOME/f[[]1][*]/1.xml.bz2"],
    }


def test_a_task_in_several_sets_is_named() -> None:
    def finding(run_definition: str, tasks: str, *names: tuple[str, ...]) -> Finding:
        return Finding("j", run_definition, tasks, ResultFile(Path("/x.xml"), tasks=names))

    one, two = ("1.c", "safe", "true"), ("1.c", "memory", "true")
    assert repeated([finding("r", "a", one, two), finding("s", "a", one)]) == []
    assert repeated([finding("r", "a", one), finding("r", "b", one), finding("r", "c")]) == ["1.c"]


def test_a_run_definition_without_a_name_is_called_as_the_benchmark() -> None:
    root = ElementTree.fromstring(table_definition([Finding("all", "", "a", ResultFile(Path("/x.xml")))], "def"))
    assert [one.get("title") for one in root.findall("union")] == ["def"]
