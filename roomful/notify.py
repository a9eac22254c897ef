"""Word to people when something is done. A notification that cannot be sent warns and never fails a run.

A channel is anything with a ``label`` and a ``send(message)`` that raises `NotSent`; `notify` goes through them all.
`channels_of` makes them of the settings and flags: e-mail and Slack-form webhooks are built in, every other service
is the package apprise's.
"""

from __future__ import annotations

import getpass
import importlib
import importlib.util
import json
import os
import queue
import re
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Protocol

from roomful.errors import InputError, SettingsError
from roomful.secret import Secret
from roomful.settings import Settings

#: A channel must go on answering within this time, in seconds, and have taken the message within that.
TIMEOUT_SECONDS = 10.0
DEADLINE_SECONDS = 30.0
#: Where the SMTP password is looked for first; then in the keyring, if the package keyring is installed.
PASSWORD_VARIABLE = "ROOMFUL_SMTP_PASSWORD"
#: Given for ``--notify``: send nothing, whatever the settings say.
OFF = "off"


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
    #: Where the URL was given, for the refusal.
    where: str = "--slack-webhook"

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.url.isprintable():
            raise InputError("not a webhook's URL", where=self.where, fix="give http://... or https://...")

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


@dataclass(frozen=True)
class Mail:
    """Send an e-mail through an SMTP server.

    ``security``: ``tls`` (from the first byte), ``starttls``, ``none``, or ``auto``: STARTTLS where the server offers
    it. A password is only sent over a connection whose certificate was checked, unless ``security`` is ``none``.
    """

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    security: str = "auto"
    user: str = ""
    password: Secret | None = None

    @property
    def label(self) -> str:
        """The addresses."""
        return f"mail to {', '.join(self.to)}"

    def send(self, message: Message) -> None:
        """Hand a message to the server; raises NotSent."""
        try:
            with self._connect() as server:
                if self.password is not None:
                    server.login(self.user, self.password.reveal())
                refused = server.send_message(self._letter(message), self.sender, self.to)
        except smtplib.SMTPRecipientsRefused as error:
            raise NotSent(_refusal(error.recipients)) from None
        except smtplib.SMTPResponseException as error:
            raise NotSent(f"{self.host} answered {error.smtp_code} {_text(error.smtp_error)}") from None
        except (OSError, ValueError, smtplib.SMTPException) as error:
            raise NotSent(f"{self.host}:{self.port}: {error}") from None
        if refused:
            raise NotSent(_refusal(refused))

    def _connect(self) -> smtplib.SMTP:
        # Without a password there is nothing to protect, and this machine's mail server has no known certificate.
        context = ssl.create_default_context()
        if self.password is None and self.security == "auto":
            context = ssl._create_unverified_context()
        # The name that smtplib would greet with is looked up, which may take long.
        options: dict[str, Any] = {"local_hostname": socket.gethostname(), "timeout": TIMEOUT_SECONDS}
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, context=context, **options)
        server = smtplib.SMTP(self.host, self.port, **options)
        try:
            server.ehlo_or_helo_if_needed()
            if self.security == "starttls" or (self.security == "auto" and server.has_extn("starttls")):
                server.starttls(context=context)
            elif self.security == "auto" and self.password is not None:
                raise NotSent(f"{self.host} offers no encryption, and the password is not sent without")
        except BaseException:
            server.close()
            raise
        return server

    def _letter(self, message: Message) -> EmailMessage:
        letter = EmailMessage()
        letter["Subject"] = " ".join(_printable(message.subject).split())
        letter["From"] = self.sender
        letter["To"] = ", ".join(self.to)
        letter["Date"] = formatdate()
        letter["Message-ID"] = make_msgid(domain=socket.gethostname())
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(f"{_printable(message.whole)}\n")
        return letter


@dataclass(frozen=True)
class Apprise:
    """Any service that the package apprise knows, by its URL, which is a secret."""

    url: str = field(repr=False)

    @property
    def label(self) -> str:
        """The service's name."""
        return f"{_parts(self.url).scheme} (apprise)"

    def client(self) -> Any:
        """Return apprise's object; raises InputError where it is not installed or does not know the URL."""
        scheme = _parts(self.url).scheme
        if importlib.util.find_spec("apprise") is None:
            why = f"{scheme}://... needs the package apprise"
            raise InputError("cannot notify", why=why, fix="install it with: pip install apprise")
        client = importlib.import_module("apprise").Apprise()
        if not client.add(self.url):
            raise InputError(f"apprise does not take this {scheme}:// URL", fix="see apprise's list of services")
        return client

    def send(self, message: Message) -> None:
        """Send a message; raises NotSent."""
        try:
            taken = self.client().notify(title=_printable(message.subject), body=_printable(message.text) or " ")
        except Exception as error:
            # Its services are many, and so are their exceptions; their texts may hold the URL.
            raise NotSent(type(error).__name__) from None
        if not taken:
            raise NotSent("the service did not take it")


def notify(message: Message, channels: Iterable[Channel], warn: Callable[[str], None]) -> int:
    """Send a message on every channel; calls ``warn`` for each that fails, and returns how many took it."""
    sent = 0
    for channel in channels:
        why = _sent(message, channel)
        if why is None:
            sent += 1
        else:
            warn(f"{channel.label}: the notification was not sent: {why}")
    return sent


def _sent(message: Message, channel: Channel) -> str | None:
    """Send a message on one channel; return why that failed, None if it did not."""
    ended = queue.SimpleQueue[str | None]()

    def send() -> None:
        try:
            channel.send(message)
            ended.put(None)
        except NotSent as error:
            ended.put(str(error))
        except Exception as error:
            # Whatever it is, no run fails for it; its text may hold a secret.
            ended.put(type(error).__name__)

    # In a thread: who answers letter by letter must not hold the run up for ever.
    threading.Thread(target=send, daemon=True, name="notification").start()
    try:
        return ended.get(timeout=DEADLINE_SECONDS)
    except queue.Empty:
        return f"no end within {DEADLINE_SECONDS:g} s"


def channels_of(settings: Settings, notify: str, mail_to: str, environ: Mapping[str, str]) -> list[Channel]:
    """Make the channels that ``--notify`` and ``--mail-to`` name, or the settings where these are empty.

    ``notify`` holds URLs (``http(s)://`` is a webhook, ``mailto:A@B`` an address, all else apprise's), separated by
    blanks or commas; ``off`` means nobody, by mail neither. Raises InputError, before anything is sent.
    """
    if notify == OFF:
        return []
    where = "--notify" if notify else "roomful.notify"
    found: list[Channel] = []
    addresses = [word for word in re.split(r"[\s,]+", mail_to or settings.mail_to) if word]
    # A comma inside of a URL is its own.
    for url in re.split(r"[\s,]+(?=[a-zA-Z][a-zA-Z0-9+.-]*:)", (notify or settings.notify).strip()):
        scheme = url.partition(":")[0].lower() if ":" in url else ""
        if scheme in ("http", "https"):
            found.append(SlackWebhook(url, where))
        elif scheme == "mailto" and not url[7:].startswith("/"):
            addresses.append(url[7:])
        elif scheme and url.isprintable():
            channel = Apprise(url)
            channel.client()
            found.append(channel)
        elif url:
            raise InputError("not a URL", where=where, fix="give https://..., mailto:NAME@HOST, or one of apprise's")
    return [*found, *([_mail(settings, addresses, environ)] if addresses else [])]


def _mail(settings: Settings, addresses: Iterable[str], environ: Mapping[str, str]) -> Mail:
    sender = settings.mail_from or f"{_account()}@{socket.gethostname()}"
    for address in (*addresses, sender):
        if not _is_address(address):
            raise InputError(f"not an e-mail address: {address!r}", fix="write NAME@HOST")
    if settings.smtp_security not in ("auto", "starttls", "tls", "none"):
        what = f"bad value {settings.smtp_security!r}"
        raise SettingsError(what, where="roomful.smtp_security", fix="write auto, starttls, tls or none")
    password = _password(settings, environ) if settings.smtp_user else None
    return Mail(
        tuple(addresses),
        sender,
        settings.smtp_host,
        settings.smtp_port,
        settings.smtp_security,
        settings.smtp_user,
        password,
    )


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container an account need not have a name.
        return str(os.getuid())


def _is_address(text: str) -> bool:
    if not re.fullmatch(r"[^\s,;:<>@\"()]+(@[^\s,;:<>@\"()]+)?", text) or not text.isprintable():
        return False
    try:
        EmailMessage()["To"] = text
    except Exception:
        # The package email reads it once more, and has errors of many kinds.
        return False
    return True


def _password(settings: Settings, environ: Mapping[str, str]) -> Secret:
    text = environ.get(PASSWORD_VARIABLE)
    service = f"roomful {settings.smtp_host}"
    if not text and importlib.util.find_spec("keyring") is not None:
        try:
            text = importlib.import_module("keyring").get_password(service, settings.smtp_user)
        except Exception:
            # No keyring on this machine, or a locked one: as if it held nothing.
            text = None
    if not text:
        fix = f"set {PASSWORD_VARIABLE}, or keep it with: keyring set '{service}' {settings.smtp_user}"
        raise InputError(f"no SMTP password for {settings.smtp_user}", where="roomful.smtp_user", fix=fix)
    return Secret(text)


def _parts(url: str) -> urllib.parse.SplitResult:
    """Take a URL apart; all parts are empty where that is none."""
    try:
        return urllib.parse.urlsplit(url)
    except ValueError:
        return urllib.parse.SplitResult("", "", "", "", "")


def _refusal(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{who}: {code} {_text(said)}" for who, (code, said) in recipients.items())


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def _printable(text: str) -> str:
    """Replace what no channel could encode: names of files may hold anything."""
    clean = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else " " for c in clean)
