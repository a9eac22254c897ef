"""What the tasks that send word have in common: ``--notify`` and ``--mail-to``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roomful.notify import Channel, Message
    from roomful.settings import Settings


def channels(settings: Settings, notify: str, mail_to: str) -> list[Channel]:
    """Return who is to be told, as the flags say, else the settings.

    Raises InputError before anything is done.
    """
    from roomful.notify import channels_of

    return channels_of(settings, notify, mail_to, os.environ)


def call_again(**changes: Any) -> str:
    """Return the running call as a command line; the URLs in it are secrets, which stand in no log."""
    from ._step import current_call

    call = current_call()
    return call.line(**changes, **({"notify": "***"} if "notify" in call.given else {}))


def tell(message: Message, to: Sequence[Channel]) -> None:
    """Send a message; what cannot be sent is a warning on standard error."""
    if not to:
        return
    from roomful.lab.netns import call_outside
    from roomful.notify import notify

    sys.stdout.flush()
    call_outside(lambda: notify(message, to, lambda text: print(f"warning: {text}", file=sys.stderr)))


def place(settings: Settings) -> str:
    """Return where the project is, for people who read the message elsewhere."""
    return f"{platform.node()}:{settings.root}"
