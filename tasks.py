"""The door for ``inv``: all tasks are in ``fabfile/``."""

from __future__ import annotations

from fabfile import ns

__all__ = ["ns"]
