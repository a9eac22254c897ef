"""The helper that waits with a deadline."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_until


def test_it_returns_the_first_true_answer() -> None:
    answers = iter([0, None, "found", "too late"])
    assert wait_until(lambda: next(answers), 5) == "found"


def test_a_failed_assertion_means_not_yet() -> None:
    answers = iter([False, True])

    def check() -> bool:
        assert next(answers), "not there"
        return True

    assert wait_until(check, 5)


def test_at_the_deadline_it_says_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s; last seen: \[\]; queue: 3 tasks"):
        wait_until(list, 0, lambda: "queue: 3 tasks")
