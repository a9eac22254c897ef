"""BenchExec over many machines: what is lost, locked or broken meanwhile changes nothing about the table."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful import lab as labs
from roomful.lab import Lab
from tests.integration.test_notify import Start, smtp
from tests.support.bench_runs import OPTIONS, PATIENCE, TAKE, Running, left, project, ran, room
from tests.support.benchmarks import alone, rows, write_benchmark
from tests.support.inv import Project
from tests.support.lab import ssh
from tests.support.waiting import wait_until

__all__ = ["project", "room", "smtp"]

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.timeout(400)]


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that keeps the texts that are posted to it."""
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
        server.shutdown()


def test_locked_lost_and_unfit_machines_change_nothing_about_the_table(
    project: Project, room: Lab, smtp: Start, webhook: tuple[str, list[str]]
) -> None:
    box, port = smtp()
    url, posted = webhook
    definition = write_benchmark(project.root)
    assert ssh(room, "lab01", TAKE).returncode == 0
    # No cgroups: BenchExec cannot measure there.
    assert ssh(room, "lab03", "mount -t tmpfs none /sys/fs/cgroup").returncode == 0
    settings = json.loads((project.root / "invoke.yaml").read_text())
    settings["roomful"] |= {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "none"}
    (project.root / "invoke.yaml").write_text(json.dumps(settings))

    run = Running(project, "--split=both", "--notify-each", f"--notify={url}", "--mail-to=me@example.org", "--json")
    run.until(r"lab01: locked by root \(flock\) since 20\d\d-")
    run.until(r"lab03: cannot measure: .*[Cc]group")
    run.until(r"lab02 finished ")
    run.until(r"(?s)lab02 finished .*lab02 runs ")
    labs.fail(room.name, "lab02", "poweroff")
    ssh(room, "lab01", "pkill -x -f 'sleep 86399'")
    assert run.wait() == 0, run.said.read_text()

    document = json.loads(run.out.read_text())
    assert document["missing"] == 0
    hosts = [job["host"] for job in document["jobs"]]
    assert len(hosts) == 6
    assert set(hosts) == {"lab01", "lab02"}
    assert "lab02: lost: no heartbeat for 8 s" in run.said.read_text()
    assert rows(Path(document["reports"][1])) == alone(project, definition)
    # Each job's end, and the end of all.
    assert len(posted) == len(box.letters) == 7
    assert re.match(r"def: lab0[12] finished \S+ in [\d.]+ s: \d (true|false)", posted[0])
    assert re.match(r"def: 6 of 6 jobs finished in ", posted[-1])
    assert f"results: {document['folder']}" in posted[-1]
    assert "lab01: " in posted[-1]
    assert "lab02: " in posted[-1]
    assert box.letters[-1]["Subject"].startswith("def: 6 of 6 jobs finished")
    assert (left(room, "lab01"), left(room, "lab03")) == ("", "")
    labs.heal(room.name, "lab02")
    assert "lab02: not cleaned" in run.said.read_text()
    assert project.inv("bench.stop", "def").returncode == 0
    assert left(room, "lab02") == ""
    assert not list((project.root / ".roomful" / "bench").iterdir())


def test_a_killed_controller_loses_nothing_and_resume_runs_nothing_twice(project: Project, room: Lab) -> None:
    definition = write_benchmark(project.root)
    run = Running(project, "--split=both", "--exclude=lab03")
    first = run.until(r"(lab0[12]) finished (\S+) in")
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    account = project.root / "results" / "bench" / "def" / "jobs" / first[2] / "job.json"
    before = account.read_bytes()

    again = project.inv("bench.run", *OPTIONS, "--split=both", "--exclude=lab03")
    assert (again.returncode, "there is a run 'def' already" in again.stderr) == (2, True), again.stderr
    again = project.inv("bench.run", *OPTIONS, "--split=taskset", "--exclude=lab03", "--resume")
    assert (again.returncode, "changed since it began: jobs, split" in again.stderr) == (2, True), again.stderr
    done = Running(project, "--split=both", "--exclude=lab03", "--resume")
    assert done.wait() == 0, done.said.read_text()
    assert "of 6 jobs are finished already" in done.said.read_text()
    assert account.read_bytes() == before
    assert ran(room) == 10, "each task of each run definition has a file, but for the one without"
    assert rows(project.root / "results" / "bench" / "def" / "report.table.csv") == alone(project, definition)
    assert (left(room, "lab01"), left(room, "lab02")) == ("", "")

    # Of a run that is finished nothing runs at all, and no machine is needed.
    (project.root / "host_lists" / "gone.txt").write_text("192.0.2.1\n")
    done = Running(project, "--split=both", "--hosts=gone", "--resume")
    assert done.wait() == 0, done.said.read_text()
    assert ran(room) == 10


def test_results_that_went_down_with_their_machine_are_made_again(project: Project, room: Lab) -> None:
    definition = write_benchmark(project.root)
    run = Running(project, "--split=both", "--exclude=lab03")
    run.until(r"lab0[12] finished ")
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    here = {path.name for path in (project.root / "results" / "bench" / "def" / "jobs").iterdir()}

    def lost() -> str:
        """Remove a result that nobody has fetched."""
        for host in ("lab01", "lab02"):
            for path in ssh(room, host, "ls ~/roomful-*/results/*.zip").stdout.split():
                if Path(path).name.partition("+")[0] not in here:
                    ssh(room, host, f"rm {path}")
                    return Path(path).name.partition("+")[0]
        return ""

    job = wait_until(lost, PATIENCE, pause=0.3)
    done = Running(project, "--split=both", "--exclude=lab03", "--resume")
    assert done.wait() == 0, done.said.read_text()
    assert re.search(rf"{re.escape(job)}: its results are lost with lab0\d: .*; it runs again", done.said.read_text())
    assert rows(project.root / "results" / "bench" / "def" / "report.table.csv") == alone(project, definition)


@pytest.fixture
def cluster(project: Project) -> Iterator[Project]:
    """The project's own cluster, with a task that runs."""
    done = project.inv("start-server", "start-clients", "--slots=1")
    assert done.returncode == 0, done.stderr
    assert project.inv("submit", "-", stdin="sleep 86398\n").returncode == 0
    yield project
    project.inv("stop-clients", "--now")
    project.inv("stop-server", "--forget", "--yes")


def running(project: Project) -> list[int]:
    """The attempts of the tasks that run in the project's own cluster."""
    return [task["attempt"] for task in project.json("tasks", "--state=running")["tasks"]]


def test_a_result_that_is_not_whole_does_not_count_and_is_kept_aside(cluster: Project, room: Lab) -> None:
    """And the project's own cluster on the same machines goes on meanwhile."""
    project = cluster
    write_benchmark(project.root, seconds=0)
    wait_until(lambda: running(project) == [1], PATIENCE)
    script = project.root / "start.sh"
    script.write_text(
        "#!/bin/sh\nset -e\n"
        'benchexec --no-container -t "$2" -n "$3" "$1"\n'
        # BenchExec's own end after an interrupt: exit code 0, and files that are not whole.
        'if [ "$2" = b ] && [ "$ROOMFUL_ATTEMPT" = 1 ]; then\n'
        '  for file in "$ROOMFUL_OUTPUT"/*.slow.b.xml.bz2; do truncate -s 100 "$file"; done\nfi\n'
        'if [ "$2" = "z z" ]; then rm "$ROOMFUL_OUTPUT"/*.fast.*.bz2; fi\n'
    )
    done = project.inv("bench.run", *OPTIONS, "--start-script=start.sh", "--name=own", timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    # Of a job all counts or nothing.
    assert "2 of 6 results are missing, of the jobs z_z" in done.stderr
    assert re.search(r"b on lab0\d, attempt 1: exit 1; it runs again", done.stderr), done.stderr
    folder = project.root / "results" / "bench" / "own"
    table = (folder / "jobs.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in table[1:]] == [["a_", "ok"], ["b", "ok"], ["z_z", "missing"]]
    assert "fast.z z: no result file" in table[3]
    aside = sorted(path.name.partition("-")[0] for path in (folder / "failed" / "b").iterdir())
    assert aside == ["1"]
    assert json.loads(next((folder / "failed" / "b").glob("1-*/job.json")).read_text())["faults"].keys() == {"slow.b"}
    # Bounded: the first attempt and two more.
    assert len(list((folder / "failed" / "z_z").iterdir())) == 3
    assert running(project) == [1]
    assert project.inv("server-status").returncode == 0
