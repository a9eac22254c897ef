"""What ``python3 roomful.pyz VERB ...`` does on clients and on the server."""

from __future__ import annotations

import importlib
import sys
from typing import Mapping, Sequence

#: Verb -> module whose ``main`` takes the arguments, this one included. Loaded only when called: the supervisor and
#: the guard stay small.
VERBS: Mapping[str, str] = {
    "agent": "roomful.agent.control",
    "guard": "roomful.agent.control",
    "stop": "roomful.agent.control",
    "status": "roomful.agent.control",
    "client": "roomful.agent.client",
    "server": "roomful.agent.server",
    "supervise": "roomful.agent.supervisor",
    "keeper": "roomful.agent.keeper",
    "door": "roomful.agent.door",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Call what the first argument names; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in VERBS:
        sys.stderr.write(f"roomful.pyz: write one of: {', '.join(VERBS)}\n")
        return 2
    code: int = importlib.import_module(VERBS[words[0]]).main(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
