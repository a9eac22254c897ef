"""Notifications: what is refused, and that a failure only warns."""

from __future__ import annotations

import pytest

from roomful.errors import InputError
from roomful.notify import Message, NotSent, SlackWebhook, notify


@pytest.mark.parametrize(
    "url", ["", "hooks.slack.com/x", "ftp://h/x", "http://", "https://h/\nx", "file:///etc/passwd", "http://[x"]
)
def test_what_is_no_webhook_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not a webhook's URL"):
        SlackWebhook(url)


def test_the_url_is_never_shown() -> None:
    webhook = SlackWebhook("https://hooks.example.org/services/SECRET")
    assert "SECRET" not in repr(webhook) + webhook.label + str(webhook)
    assert webhook.label == "webhook at hooks.example.org"


def test_every_channel_is_tried_and_failures_warn() -> None:
    class Broken:
        label = "broken"

        def send(self, message: Message) -> None:
            raise NotSent("no answer")

    class Working:
        label = "working"
        got: list[str] = []  # noqa: RUF012

        def send(self, message: Message) -> None:
            self.got.append(message.whole)

    warnings: list[str] = []
    assert notify(Message("subject", "text"), [Broken(), Working()], warnings.append) == 1
    assert Working.got == ["subject\ntext"]
    assert warnings == ["broken: the notification was not sent: no answer"]
