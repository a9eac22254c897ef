"""Processes that this one starts on this machine, and that must not outlive it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys


@functools.cache
def dying_with_us(signal: str = "TERM") -> tuple[str, ...]:
    """Return the command to put before another, so that the kernel ends it when this process is killed.

    Empty where that cannot be done; then only an orderly end of ours ends it.
    """
    if not sys.platform.startswith("linux") or shutil.which("setpriv") is None:
        return ()
    prefix = ("setpriv", "--pdeathsig", signal, "--")
    # setpriv before util-linux 2.33 does not know the option.
    known = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if known.returncode == 0 else ()
