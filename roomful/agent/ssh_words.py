"""What the OpenSSH client says when it gives up, as a reason (DESIGN.md's words)."""

from __future__ import annotations

import re
from typing import Sequence

#: What OpenSSH says last -> reason (DESIGN.md's words).
_REASONS = (
    (r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED|host key is known", "host-key"),
    (r"Permission denied|Too many authentication failures", "auth"),
    (r"Could not resolve|Name or service not known|Temporary failure in name resolution", "dns"),
    (r"timed out|Timeout|timeout", "timeout"),
    (r"Connection refused", "refused"),
    (r"No route to host|Network is unreachable", "no-route"),
    (r"forwarding failed|forwarding request failed", "forwarding"),
    (r"not a folder of ours", "error"),
    (r"Connection (closed|reset)|Broken pipe|closed by remote", "lost"),
)


def reason_of(words: Sequence[str], code: int) -> tuple[str, str]:
    """Turn what an ended OpenSSH child said into a reason and a sentence."""
    for pattern, reason in _REASONS:
        for line in reversed(words):
            if re.search(pattern, line):
                return reason, line
    if words:
        return "error", words[-1]
    return "lost", f"ssh ended with exit code {code}" if code >= 0 else f"ssh was ended by signal {-code}"
