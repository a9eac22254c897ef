"""BenchExec over many machines: what changes on one of them while others measure."""

from __future__ import annotations

import json
import re
import signal

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.support.bench_runs import OPTIONS, RSYNC, TAKE, Running, left, project, ran, room
from tests.support.benchmarks import alone, rows, write_benchmark
from tests.support.inv import Project
from tests.support.lab import ssh
from tests.support.waiting import wait_until

__all__ = ["project", "room"]

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.timeout(400)]

#: The real one first takes a machine's lock for somebody else, as if that had happened while files are on their way.
TAKING = f"""\
cp {RSYNC} /var/tmp/rsync
cat >/var/tmp/r <<'END'
#!/bin/sh
[ -e /var/tmp/took ] || {TAKE}
touch /var/tmp/took
exec /var/tmp/rsync "$@"
END
chmod 755 /var/tmp/r
mount --bind /var/tmp/r {RSYNC}
"""
OTHER_CPU = r"""
sed 's/^\(model name.*: \).*/\1Other CPU/' /proc/cpuinfo >/var/tmp/cpuinfo
mount --bind /var/tmp/cpuinfo /proc/cpuinfo
"""


def on(room: Lab, host: str, command: str) -> str:
    """Run a command on a host that is to succeed."""
    done = ssh(room, host, command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_machine_that_is_taken_while_files_are_on_their_way_is_left_alone(project: Project, room: Lab) -> None:
    write_benchmark(project.root, seconds=0)
    on(room, "lab01", TAKING)
    run = Running(project, "--exclude=lab02,lab03")
    run.until(r"lab01 +locked")
    run.until(r"lab01: locked by root \(flock\) since 20\d\d-")
    assert on(room, "lab01", "ls -d ~/roomful-*/tool.d; ls -d ~/roomful-*/tool || true").endswith("/tool.d\n")
    assert on(room, "lab01", "pgrep -fl '[r]oomful-.*pyz' || true") == ""
    on(room, "lab01", f"umount {RSYNC}; pkill -x -f 'sleep 86399'")
    assert run.wait() == 0, run.said.read_text()
    assert "lab01: ready" in run.said.read_text()


def test_a_machine_with_another_cpu_that_comes_later_gets_no_job(project: Project, room: Lab) -> None:
    write_benchmark(project.root, seconds=4)
    on(room, "lab02", OTHER_CPU)
    labs.fail(room.name, "lab02", "cut")
    run = Running(project, "--split=both", "--exclude=lab03", "--json")
    run.until(r"lab02 +away")
    run.until(r"lab01 runs ")
    labs.heal(room.name, "lab02")
    run.until(r"lab02: another CPU: Other CPU")
    assert run.process.poll() is None
    assert run.wait() == 0, run.said.read_text()
    assert {job["host"] for job in json.loads(run.out.read_text())["jobs"]} == {"lab01"}
    assert left(room, "lab02") == ""


def test_different_cpus_are_refused_unless_they_are_wanted_and_the_report_warns(project: Project, room: Lab) -> None:
    write_benchmark(project.root, seconds=1)
    on(room, "lab02", OTHER_CPU)
    refused = project.inv("bench.run", *OPTIONS, "--exclude=lab03")
    assert refused.returncode == 2
    assert re.search(
        r"different CPUs, so that times do not compare: .*lab02: Other CPU; .*--mixed-hard", refused.stderr
    )
    assert ran(room) == 0
    assert not (project.root / "results" / "bench" / "def").exists()
    assert (left(room, "lab01"), left(room, "lab02")) == ("", "")

    run = Running(project, "--split=both", "--exclude=lab03", "--mixed-hardware", "--json")
    assert run.wait() == 0, run.said.read_text()
    assert {job["host"] for job in json.loads(run.out.read_text())["jobs"]} == {"lab01", "lab02"}
    assert re.search(r"warning: measured on different CPUs, times do not compare: .*Other CPU", run.said.read_text())


def attempts(project: Project) -> dict[str, list[tuple[str, int]]]:
    """Each job's results that were accepted: host and attempt."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path in sorted((project.root / "results" / "bench" / "def" / "jobs").glob("*/**/job.json")):
        account = json.loads(path.read_bytes())
        found.setdefault(account["job"], []).append((account["host"], account["attempt"]))
    return found


def test_a_job_goes_on_while_the_network_is_cut_and_its_result_counts(project: Project, room: Lab) -> None:
    definition = write_benchmark(project.root, seconds=3)
    settings = json.loads((project.root / "invoke.yaml").read_text())
    settings["roomful"]["lease_seconds"] = 120.0
    (project.root / "invoke.yaml").write_text(json.dumps(settings))
    run = Running(project, "--split=both", "--exclude=lab03")
    job = run.until(r"lab01 runs (\S+)")[1]
    labs.fail(room.name, "lab01", "cut")
    # All others, which takes longer than what lab01 was at.
    run.until(rf"(lab02 finished (?!{re.escape(job)} )(?s:.*)){{5}}")
    labs.heal(room.name, "lab01")
    assert run.wait() == 0, run.said.read_text()
    found = attempts(project)
    assert found[job] == [("lab01", 1)]
    assert all(len(accepted) == 1 for accepted in found.values())
    assert ran(room) == 10
    assert rows(project.root / "results" / "bench" / "def" / "report.table.csv") == alone(project, definition)


def test_a_result_of_a_host_whose_lease_ran_out_is_fenced(project: Project, room: Lab) -> None:
    definition = write_benchmark(project.root, seconds=3)
    run = Running(project, "--split=both", "--exclude=lab03")
    job = run.until(r"lab01 runs (\S+)")[1]
    labs.fail(room.name, "lab01", "cut")
    run.until(r"lab01: lost: no heartbeat for 8 s")
    run.until(rf"lab02 runs {re.escape(job)}\n")
    labs.heal(room.name, "lab01")
    assert run.wait() == 0, run.said.read_text()
    found = attempts(project)
    assert found[job] == [("lab02", 2)]
    assert {name: len(accepted) for name, accepted in found.items()} == dict.fromkeys(found, 1)
    assert len(found) == 6
    assert rows(project.root / "results" / "bench" / "def" / "report.table.csv") == alone(project, definition)


def test_a_run_is_not_resumed_with_a_task_file_that_has_changed(project: Project, room: Lab) -> None:
    write_benchmark(project.root, seconds=1)
    run = Running(project, "--exclude=lab03")
    run.until(r"lab0[12] finished ")
    run.process.kill()
    run.process.wait()
    content = (project.root / "c" / "3.c").read_text()
    (project.root / "c" / "3.c").write_text("int main() { return 0; }\n")
    refused = project.inv("bench.run", *OPTIONS, "--exclude=lab03", "--resume")
    assert (refused.returncode, "changed since it began: task files; results of" in refused.stderr) == (2, True)
    (project.root / "c" / "3.c").write_text(content)
    done = Running(project, "--exclude=lab03", "--resume")
    assert done.wait() == 0, done.said.read_text()


def test_ctrl_c_while_machines_are_looked_at_says_nothing_of_them(project: Project, room: Lab) -> None:
    definition = write_benchmark(project.root, seconds=0)
    # It takes connections and never answers: the others have long done so.
    labs.fail(room.name, "lab03", "freeze")
    run = Running(project, "--notify=https://127.0.0.1/SECRET")
    listed = project.root / ".roomful" / "bench" / "def" / "host_lists" / "0.txt"
    wait_until(listed.exists, 30, run.said.read_text)
    wait_until(
        lambda: "roomful-" in left(room, "lab01") and "roomful-" in left(room, "lab02"), 30, run.said.read_text
    )
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.said.read_text()
    assert "what was begun goes on; wait for them again: inv bench.run" in run.said.read_text()
    assert "'--notify=***'" in run.said.read_text()
    assert "SECRET" not in run.said.read_text()
    labs.heal(room.name, "lab03")
    again = Running(project, "--resume")
    assert again.wait() == 0, again.said.read_text()
    assert rows(project.root / "results" / "bench" / "def" / "report.table.csv") == alone(project, definition)
