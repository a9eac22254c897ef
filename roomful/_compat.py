"""The one import of patchwork, made to work with Invoke 2.

patchwork 1.0.1 imports ``invoke.vendor.six``, which Invoke 2 dropped, and declares ``fabric<3``, so it is installed
with ``--no-deps`` and cannot stand among our dependencies.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from roomful.errors import MissingProgram

INSTALL_PATCHWORK = "pip install --no-deps patchwork==1.0.1"


def patchwork_transfers() -> Any:
    """Import ``patchwork.transfers``.

    Raises MissingProgram with the one command that installs it.
    """
    sys.modules.setdefault("invoke.vendor.six", importlib.import_module("six"))
    try:
        return importlib.import_module("patchwork.transfers")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "patchwork":
            raise MissingProgram("patchwork", INSTALL_PATCHWORK) from None
        raise
