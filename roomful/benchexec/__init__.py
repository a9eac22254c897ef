"""BenchExec over many machines: what a benchmark definition holds, and the jobs that it is split into.

``definition`` reads the XML file as BenchExec 3.35 does, and refuses what could not be told apart afterwards;
``plan`` makes jobs of it; ``judge`` says which results count, and ``table`` merges them into one report.
"""

from __future__ import annotations

from roomful.benchexec.definition import Definition, RunDefinition, TaskSet, read_definition
from roomful.benchexec.plan import SPLITS, Job, Plan, make_plan

__all__ = [
    "SPLITS",
    "Definition",
    "Job",
    "Plan",
    "RunDefinition",
    "TaskSet",
    "make_plan",
    "read_definition",
]
