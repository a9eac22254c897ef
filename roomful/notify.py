"""Word to people when something is done. A notification that cannot be sent warns and never fails a run.

A channel is anything with a ``label`` and a ``send(message)`` that raises `NotSent`; `notify` goes through them all.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from roomful.errors import InputError

#: A channel must have taken the message within this time, in seconds.
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Message:
    """What is sent: a line that says how it went, and the rest."""

    subject: str
    text: str = ""

    @property
    def whole(self) -> str:
        """Both as one text."""
        return f"{self.subject}\n{self.text}".strip()


class NotSent(Exception):
    """Report that a channel did not take a message; the text says why and holds no secret."""


class Channel(Protocol):
    """A way to people."""

    @property
    def label(self) -> str:
        """What it is called in warnings; no secret."""

    def send(self, message: Message) -> None:
        """Send a message; raises NotSent."""


@dataclass(frozen=True)
class SlackWebhook:
    """Post ``{"text": ...}`` to a URL, as Slack's incoming webhooks take it; so do Mattermost and others.

    The URL is a secret: whoever has it may post. It is never shown.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.url.isprintable():
            raise InputError("not a webhook's URL", where="--slack-webhook", fix="give http://... or https://...")

    @property
    def label(self) -> str:
        """The host that is posted to."""
        return f"webhook at {urllib.parse.urlsplit(self.url).hostname}"

    def send(self, message: Message) -> None:
        """Post a message; raises NotSent."""
        body = json.dumps({"text": message.whole}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                response.read(1024)
        except urllib.error.HTTPError as error:
            raise NotSent(f"it answered {error.code}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise NotSent(str(reason).replace(self.url, "***")) from None
        except Exception as error:
            # http.client has errors of its own for what is no HTTP.
            raise NotSent(type(error).__name__) from None


def notify(message: Message, channels: Iterable[Channel], warn: Callable[[str], None]) -> int:
    """Send a message on every channel; calls ``warn`` for each that fails, and returns how many took it."""
    sent = 0
    for channel in channels:
        try:
            channel.send(message)
            sent += 1
        except NotSent as error:
            warn(f"{channel.label}: the notification was not sent: {error}")
    return sent
