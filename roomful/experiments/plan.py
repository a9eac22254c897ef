"""What would run: every experiment that the registrations stand for, filtered and in order."""

from __future__ import annotations

import dataclasses
import fnmatch
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from roomful.experiments.journal import text_of
from roomful.experiments.registry import Experiment, Registration

#: More experiments than this are asked about.
MANY = 10_000


@dataclass(frozen=True)
class Plan:
    """Experiments in their order of execution."""

    experiments: tuple[Experiment, ...]
    seed: int


def count(registrations: Sequence[Registration], most: int = MANY + 1) -> int:
    """Count the experiments; where counting would take long, it ends at about ``most``."""
    total = 0
    for registration in registrations:
        total += registration.count(most)
    return total


def make_plan(registrations: Sequence[Registration], pattern: str = "", seed: int | None = None) -> Plan:
    """Unfold registrations; those that repeat are shuffled, by ``seed`` or a new one.

    ``pattern`` is matched against the name, and against ``file:name``.
    """
    chosen_seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    experiments: list[Experiment] = []
    known = Counter[str]()
    for number, registration in enumerate(registrations):
        found = [_told_apart(one, known) for one in registration.experiments()]
        if registration.repeat > 1:
            # Each by its own sequence: adding an experiment does not change the order of the others.
            random.Random(f"{chosen_seed} {registration.group} {registration.name} {number}").shuffle(found)
        experiments += [one for one in found if registration.run_always or matches(one, pattern)]
    return Plan(tuple(experiments), chosen_seed)


def _told_apart(experiment: Experiment, known: Counter[str]) -> Experiment:
    names = [experiment.registration.file, experiment.registration.name, experiment.repetition]
    text = text_of(names, experiment.params)
    known[text] += 1
    return experiment if known[text] == 1 else dataclasses.replace(experiment, occurrence=known[text])


def matches(experiment: Experiment, pattern: str) -> bool:
    """Tell whether ``--filter`` lets an experiment through."""
    names = (experiment.name, f"{experiment.registration.group}:{experiment.name}")
    return not pattern or any(fnmatch.fnmatchcase(name, pattern) for name in names)
