"""How programs of ours call dsh: as its own program does, and without looking for that."""

from __future__ import annotations

import sys
from pathlib import Path

import roomful

_RUN = "import sys; sys.path.insert(0, sys.argv[1]); from roomful.dsh import main; main(sys.argv[2:])"


def client_argv(*words: str) -> list[str]:
    """Return the argv of a dsh with these words; the working directory cannot change what is run."""
    return [sys.executable, "-I", "-S", "-c", _RUN, str(Path(roomful.__file__).parents[1]), *words]
