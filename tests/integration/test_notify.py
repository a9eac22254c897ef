"""E-mail to a real SMTP server, and word to a real HTTP server, as ``inv submit --wait`` sends them."""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from roomful import notify as notifying
from roomful.notify import Mail, Message, NotSent, SlackWebhook
from roomful.secret import Secret
from tests.support.agents import Room, a_room

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]


class Postbox:
    """Takes every letter but those to nobody@; keeps who logged in."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        self.encrypted.append(session.ssl is not None)
        return "250 taken"

    def log_in(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"hunter2", handled=False)


Start = Callable[..., tuple[Postbox, int]]


@pytest.fixture
def smtp() -> Iterator[Start]:
    """Start SMTP servers on the loopback network, with the keywords of aiosmtpd's Controller."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[Postbox, int]:
            box = Postbox()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            server = Controller(box, hostname="127.0.0.1", port=port, authenticator=box.log_in, **options)
            server.start()
            stack.callback(server.stop)
            return box, port

        yield start


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, with its key, that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def context(certificate: Path) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate)
    return found


def mail(port: int, **changes: Any) -> Mail:
    values = {"to": ("a@example.org", "b@example.org"), "sender": "lab@example.org", "host": "localhost", **changes}
    return Mail(port=port, **values)


def test_a_letter_arrives_whole(smtp: Start) -> None:
    box, port = smtp()
    mail(port).send(Message("all done:\n3 \u2713 \udcff", "one\nf\u00fcnf"))
    (letter,) = box.letters
    assert letter["Subject"] == "all done: 3 \u2713 ?"
    assert (letter["From"], letter["To"]) == ("lab@example.org", "a@example.org, b@example.org")
    assert letter["Date"]
    assert letter["Message-ID"]
    assert letter.get_content().splitlines()[-2:] == ["one", "f\u00fcnf"]


def test_an_address_that_is_refused_is_named_and_the_others_get_it(smtp: Start) -> None:
    box, port = smtp()
    with pytest.raises(NotSent, match=r"nobody@example.org: 550 no such mailbox"):
        mail(port, to=("a@example.org", "nobody@example.org")).send(Message("s"))
    assert len(box.letters) == 1
    with pytest.raises(NotSent, match=r"nobody@example.org: 550"):
        mail(port, to=("nobody@example.org",)).send(Message("s"))


def test_a_password_is_sent_over_a_checked_connection_only(
    smtp: Start, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"user": "me", "password": Secret("hunter2")}
    bare, bare_port = smtp(auth_require_tls=False)
    with pytest.raises(NotSent, match="offers no encryption, and the password is not sent"):
        mail(bare_port, **known).send(Message("s"))
    assert bare.logins == []
    box, port = smtp(tls_context=context(certificate))
    with pytest.raises(NotSent, match=r"(?i)certificate"):
        mail(port, **known).send(Message("s"))
    assert box.logins == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    mail(port, **known).send(Message("s"))
    assert (box.logins, box.encrypted) == ([(b"me", b"hunter2")], [True])
    with pytest.raises(NotSent, match="localhost answered 535") as caught:
        mail(port, user="me", password=Secret("wrong")).send(Message("s"))
    assert "wrong" not in str(caught.value)
    mail(bare_port, security="none", **known).send(Message("s"))
    assert bare.logins == [(b"me", b"hunter2")]


def test_encryption_is_used_where_it_is_offered_or_asked_for(smtp: Start, certificate: Path) -> None:
    box, port = smtp(tls_context=context(certificate))
    mail(port).send(Message("s"))
    assert box.encrypted == [True]
    _, bare_port = smtp()
    with pytest.raises(NotSent, match="STARTTLS"):
        mail(bare_port, security="starttls").send(Message("s"))


def test_who_answers_letter_by_letter_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifying, "DEADLINE_SECONDS", 1.0)
    warnings: list[str] = []
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.sendall(b"a")
                if over.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        hook = SlackWebhook(f"http://127.0.0.1:{server.getsockname()[1]}/")
        begin = time.monotonic()
        assert notifying.notify(Message("s"), [hook], warnings.append) == 0
        assert time.monotonic() - begin < 5
        over.set()
        thread.join()
    assert warnings == ["webhook at 127.0.0.1: the notification was not sent: no end within 1 s"]


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that keeps the texts that are posted to it."""
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


@pytest.fixture
def room() -> Iterator[Room]:
    with a_room() as room:
        room.start("one", cpus=2.0, memory_bytes=2**30)
        yield room


def submit(room: Room, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nfrom fabfile import ns\n")
    (folder / "jobs.txt").write_text("true\nexit 3\n")
    queue = {"INVOKE_ROOMFUL_SERVER_URL": f"unix://{room.valkey.socket}", "INVOKE_ROOMFUL_CLUSTER": "room"}
    return subprocess.run(
        [sys.executable, "-m", "invoke", "submit", "jobs.txt", *words],
        cwd=folder,
        env={**os.environ, **queue, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_submit_sends_word_when_all_have_ended(
    room: Room, tmp_path: Path, smtp: Start, webhook: tuple[str, list[str]]
) -> None:
    box, port = smtp()
    url, got = webhook
    where = {"INVOKE_ROOMFUL_SMTP_PORT": str(port), "INVOKE_ROOMFUL_SMTP_HOST": "127.0.0.1"}
    flags = ("--notify", f"{url}/SECRET {url}/broken/SECRET", "--mail-to", "me@example.org")
    done = submit(room, tmp_path, "--wait", *flags, **where)
    assert done.returncode == 1
    assert "1 of 2 tasks failed: 2" in done.stderr
    assert "warning: webhook at 127.0.0.1: the notification was not sent: it answered 500" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    (letter,) = box.letters
    assert letter["Subject"].startswith("jobs.txt: 1 done, 1 failed in ")
    assert "failed: 2; list them: inv tasks --state failed" in letter.get_content()
    assert str(tmp_path) in letter.get_content()
    assert [text.splitlines()[0] for text in got] == [letter["Subject"]] * 2


def test_settings_keep_the_urls_off_the_command_line(
    room: Room, tmp_path: Path, webhook: tuple[str, list[str]]
) -> None:
    url, got = webhook
    submit(room, tmp_path, "--wait", INVOKE_ROOMFUL_NOTIFY=url)
    assert len(got) == 1
    submit(room, tmp_path, "--wait", "--allow-duplicates", "--notify=off", INVOKE_ROOMFUL_NOTIFY=url)
    assert len(got) == 1


def test_without_wait_there_is_nothing_to_tell(room: Room, tmp_path: Path) -> None:
    done = submit(room, tmp_path, "--mail-to", "me@example.org")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--notify and --mail-to need --wait" in done.stderr
