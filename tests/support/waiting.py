"""Wait for a condition with a deadline, and say what was seen last when it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], deadline: float, describe: Callable[[], object] | str = "", pause: float = 0.02
) -> T:
    """Call ``predicate`` until it returns something true, and return that.

    ``deadline`` is in seconds from now. Fails with the predicate's last answer and with ``describe`` (a text, or a
    function called only then). An AssertionError of the predicate counts as "not yet".
    """
    start = time.monotonic()
    while True:
        try:
            last: object = predicate()
            if last:
                return last  # type: ignore[return-value]  # what is true is a T
        except AssertionError as error:
            last = error
        if time.monotonic() - start >= deadline:
            state = describe() if callable(describe) else describe
            raise AssertionError(f"not within {deadline:g} s; last seen: {last!r}{f'; {state}' if state else ''}")
        time.sleep(pause)
