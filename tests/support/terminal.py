"""The screen of a program that a test runs on a terminal of its own."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable


def read_all(terminal: int, until: Callable[[bytes], bool] = lambda _: False, seconds: float = 15.0) -> bytes:
    """Return what appears until the program has ended, or what has appeared is enough."""
    screen, deadline = b"", time.monotonic() + seconds
    while not until(screen) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:
                break
            if not chunk:
                break
            screen += chunk
    return screen


def shown(written: str) -> list[str]:
    """Return the lines that stand on a terminal after all of this was written: what was drawn over is gone."""
    lines, row, column = [""], 0, 0
    for text, code in re.findall(r"([^\x1b]+)|(\x1b\[[0-9;?]*[A-Za-z])", written):
        count = int(digits[0]) if (digits := re.findall(r"\d+", code)) else 1
        if code.endswith("A"):
            row = max(0, row - count)
        elif code.endswith("K"):
            lines[row] = ""
        for character in text:
            if character == "\r":
                column = 0
            elif character == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
                column += 1
    return lines
