"""A roomful of computers, one cluster, nothing but SSH."""

from __future__ import annotations

__version__ = "0.1.0"
