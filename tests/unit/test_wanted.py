"""Which outputs are brought, and from where."""

from __future__ import annotations

from roomful.agent.task import TaskSpec
from roomful.records import TaskRecord, Try
from roomful.wanted import Declarations


def test_outputs_come_from_the_host_whose_result_counts() -> None:
    spec = TaskSpec("./simulate", cwd="sub", outputs=("a", "b"))
    tries = (Try(1, "first", "exit 1", "", 0), Try(2, "second", "lost", "", 0))
    done = TaskRecord(1, "done", spec, attempt=3, host="third", tries=tries)
    again = TaskRecord(2, "running", spec, attempt=2, host="third", tries=tries[:1])
    failed = TaskRecord(3, "failed", spec, attempt=1, host="fourth")
    found = Declarations.of([done, again, failed])
    assert {host: [one.path for one in outputs] for host, outputs in found.by_host.items()} == {
        "third": ["sub/a", "sub/b"]
    }
