"""Which channels the flags and settings make, and what is refused before anything is sent."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from roomful.errors import InputError
from roomful.notify import Apprise, Mail, Message, NotSent, SlackWebhook, channels_of, notify
from roomful.settings import Settings

SETTINGS = Settings(mail_from="lab@example.org", smtp_host="mail.example.org")


@pytest.fixture
def apprise(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """A package apprise that knows ntfy:// and ends in trouble for ntfy://broken and ntfy://dead."""
    got: list[tuple[str, str, str]] = []

    class Client:
        def add(self, url: str) -> bool:
            self.url = url
            return url.startswith("ntfy://")

        def notify(self, title: str, body: str) -> bool:
            if self.url == "ntfy://broken/SECRET":
                raise RuntimeError(self.url)
            got.append((self.url, title, body))
            return self.url != "ntfy://dead/SECRET"

    module = ModuleType("apprise")
    module.__spec__ = sys.__spec__
    module.Apprise = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apprise", module)
    return got


def test_flags_win_over_settings_and_off_is_silence() -> None:
    settings = SETTINGS.replace(
        notify="https://h.example.org/a, https://h.example.org/b,c", mail_to="a@b.org c@d.org"
    )
    one, two, mail = channels_of(settings, "", "", {})
    assert [one, two] == [SlackWebhook(f"https://h.example.org/{name}", "roomful.notify") for name in ("a", "b,c")]
    assert mail == Mail(("a@b.org", "c@d.org"), "lab@example.org", "mail.example.org", 25)
    assert channels_of(settings, "off", "", {}) == []
    assert channels_of(settings, "off", "x@y.org", {}) == []
    (hook, mail) = channels_of(settings, "http://h/x", "me@here.org", {})
    assert (hook.label, mail.label) == ("webhook at h", "mail to me@here.org")
    assert channels_of(SETTINGS, "", "", {}) == []
    (mail,) = channels_of(SETTINGS, "mailto:a@b.org", "c@d.org", {})
    assert mail.label == "mail to c@d.org, a@b.org"


@pytest.mark.parametrize(
    ("notify", "mail_to", "message"),
    [
        ("mailto:", "", "not an e-mail address: ''"),
        ("somewhere", "", "--notify: not a URL"),
        ("http://", "", "--notify: not a webhook's URL"),
        ("", "a@b@c", "not an e-mail address: 'a@b@c'"),
        ("", "Me<a@b.org>", "not an e-mail address"),
        ("", "a@[b", "not an e-mail address: 'a@\\[b'"),
        ("https://[x", "", "--notify: not a webhook's URL"),
    ],
)
def test_what_is_wrong_is_refused(notify: str, mail_to: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        channels_of(SETTINGS, notify, mail_to, {})


def test_an_account_without_a_name_can_send_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    # As the password database says it of a container's account.
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[f"uid not found: {uid}"])
    (mail,) = channels_of(SETTINGS.replace(mail_from=""), "", "a@b.org", {})
    assert isinstance(mail, Mail)
    assert mail.sender.startswith(f"{os.getuid()}@")


def test_an_unknown_way_of_encrypting_is_refused() -> None:
    with pytest.raises(InputError, match=r"roomful.smtp_security: bad value 'ssl'; write auto"):
        channels_of(SETTINGS.replace(smtp_security="ssl"), "", "a@b.org", {})


def test_the_password_comes_from_the_environment_or_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.replace(smtp_user="me", mail_to="a@b.org")
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="no SMTP password for me; set ROOMFUL_SMTP_PASSWORD, or keep it with: keyr"):
        channels_of(settings, "", "", {})
    (mail,) = channels_of(settings, "", "", {"ROOMFUL_SMTP_PASSWORD": "hunter2"})
    assert isinstance(mail, Mail)
    assert mail.password is not None
    assert mail.password.reveal() == "hunter2"
    assert "hunter2" not in repr(mail)
    ring = ModuleType("keyring")
    ring.get_password = lambda service, user: f"{service}/{user}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    (mail,) = channels_of(settings, "", "", {})
    assert isinstance(mail, Mail)
    assert mail.password is not None
    assert mail.password.reveal() == "roomful mail.example.org/me"


def test_every_other_service_is_apprises(apprise: list[tuple[str, str, str]]) -> None:
    channels = channels_of(SETTINGS, "ntfy://topic ntfy://broken/SECRET ntfy://dead/SECRET", "", {})
    warnings: list[str] = []
    assert notify(Message("subject", "text"), channels, warnings.append) == 1
    assert apprise[0] == ("ntfy://topic", "subject", "text")
    assert warnings == [
        "ntfy (apprise): the notification was not sent: RuntimeError",
        "ntfy (apprise): the notification was not sent: the service did not take it",
    ]
    assert "SECRET" not in repr(channels)


def test_a_url_that_apprise_does_not_know_is_refused(apprise: list[tuple[str, str, str]]) -> None:
    with pytest.raises(InputError, match="apprise does not take this nosuch:// URL") as caught:
        channels_of(SETTINGS, "nosuch://SECRET", "", {})
    assert "SECRET" not in str(caught.value)


def test_without_apprise_its_urls_are_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"ntfy://... needs the package apprise; install it with: pip install apprise"
    ):
        channels_of(SETTINGS, "ntfy://SECRET", "", {})


def test_nobody_answers() -> None:
    with pytest.raises(NotSent, match="refused"):
        Mail(("a@b.org",), "x@y.org", "127.0.0.1", 1).send(Message("s"))


def test_apprise_hides_its_url() -> None:
    assert "SECRET" not in repr(Apprise("ntfy://SECRET")) + Apprise("ntfy://SECRET").label
