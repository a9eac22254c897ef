"""Standing back for others: whose load it is, and what each setting turns off."""

from __future__ import annotations

import pytest

from roomful.agent import console, host
from roomful.agent.manners import Manners
from roomful.agent.tuning import Tuning


def after_minutes(settings: dict[str, str], own_cpus: float) -> Manners:
    """Look at a host whose load our own tasks have been part of for ten minutes."""
    manners = Manners(Tuning("h", settings))
    for second in range(1, 601):
        manners.look(float(second), own_cpus)
    return manners


@pytest.mark.parametrize(
    ("load", "own_cpus", "said"),
    [
        (4.0, 4.0, ""),
        (4.4, 4.0, ""),
        (4.6, 4.0, "others load the host by 0.6"),
        (0.6, 0.0, "others load the host by 0.6"),
    ],
)
def test_only_the_load_of_others_keeps_tasks_from_starting(
    monkeypatch: pytest.MonkeyPatch, load: float, own_cpus: float, said: str
) -> None:
    monkeypatch.setattr(host, "load", lambda: load)
    assert after_minutes({"max_load": "0.5"}, own_cpus).refusal() == said


@pytest.mark.parametrize(
    "settings", [{}, {"max_load": "0"}, {"max_load@other": "1"}, {"max_load": "1", "max_load@h": "0"}]
)
def test_load_does_not_matter_where_it_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.setattr(host, "load", lambda: 99.0)
    assert after_minutes(settings, 0.0).refusal() == ""


def test_who_is_at_the_console_matters_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "others", lambda: {"bob", "ada"})
    away = after_minutes({}, 0.0)
    assert (away.refusal(), away.suspends) == ("", False)
    polite = after_minutes({"while_idle@h": "1"}, 0.0)
    assert (polite.refusal(), polite.suspends) == ("ada, bob at the console", True)
