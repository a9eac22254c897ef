"""How an attempt's end is told to the queue."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

#: Made once: ``json.dumps`` makes an encoder for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass
class Report:
    """The end of one attempt. ``state`` is ``done`` or ``failed``; ``detail`` as in ``parse_result``."""

    task_id: int
    attempt: int
    state: str
    #: On this process's monotonic clock.
    ended: float
    seconds: float
    stdout: bytes
    stderr: bytes
    detail: dict[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Pack it for ``finish.lua``; how long ago it ended is counted anew at each call."""
        ago = max(0, int((time.monotonic() - self.ended) * 1000))
        took = max(0, round(self.seconds * 1000))
        head = f"{self.task_id} {self.attempt} {self.state} {ago} {took} {len(self.stdout)} {len(self.stderr)}"
        said = _encode(self.detail)
        return f"{head}\n{said}\n".encode("ascii") + self.stdout + self.stderr
