"""One connection to one host: its key checked, its deadlines kept, its commands run byte for byte.

Together with endpoint.py (where a host is reached) and ssh.py (many hosts at once) this is the SSH layer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any

import fabric
import paramiko

from roomful.channel import Input, converse
from roomful.dialer import Dialer
from roomful.endpoint import Endpoint
from roomful.handshakes import Handshakes
from roomful.hosts import Host
from roomful.identity import Identity, identities
from roomful.known_hosts import KnownHosts, PresentedKey, Verdict, host_pattern
from roomful.login_shell import command_line, not_found
from roomful.outcome import HostFailure
from roomful.secret import Secret
from roomful.settings import Settings
from roomful.transport import QuickTransport

#: A connection whose packets stay unanswered for this long is lost (TCP_USER_TIMEOUT, in milliseconds).
LOST_AFTER_MS = 30_000
TCP_USER_TIMEOUT = 18

# Paramiko logs what it also raises; without this its tracebacks would land on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Completed:
    """A remote command that ended: its exit code and its output, byte for byte."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the newline at its end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


@contextlib.contextmanager
def _here(what: str) -> Iterator[None]:
    """Say of a file of ours that fails that it is ours: the host could be reached."""
    try:
        yield
    except OSError as error:
        raise HostFailure("error", f"here: {what} {error.filename}: {error.strerror}") from error


class Shared:
    """What all connections of one fan-out have in common, loaded once."""

    def __init__(self, settings: Settings, password: Secret | None = None) -> None:
        self.settings = settings
        self.password = password
        self.config = fabric.Config(lazy=True, overrides={"run": {"hide": True, "in_stream": False}})
        self.handshakes = Handshakes(int(settings.handshakes))
        self._known_hosts: dict[tuple[Any, ...], KnownHosts] = {}
        self._identities: dict[tuple[Any, ...], tuple[Identity, ...]] = {}
        self._lock = threading.Lock()

    def known_hosts(self, endpoint: Endpoint) -> KnownHosts:
        """Return the index of this endpoint's known_hosts files."""
        with self._lock:
            if endpoint.known_hosts not in self._known_hosts:
                with _here("cannot read"):
                    self._known_hosts[endpoint.known_hosts] = KnownHosts(endpoint.known_hosts)
            return self._known_hosts[endpoint.known_hosts]

    def identities(self, endpoint: Endpoint) -> tuple[Identity, ...]:
        """Return the private keys to try on this endpoint."""
        with self._lock:
            if endpoint.identity_files not in self._identities:
                self._identities[endpoint.identity_files] = identities(endpoint.identity_files)
            return self._identities[endpoint.identity_files]


class HostConnection(fabric.Connection):  # type: ignore[misc]  # fabric is untyped
    """A Fabric Connection that checks host keys, keeps deadlines, and runs commands byte-exactly."""

    # Fabric looks up whether what is set belongs to the configuration; here nothing does, and 256 hosts set a lot.
    __setattr__ = object.__setattr__

    # What is set before fabric's own __init__ is looked up there all the same.
    entry: Host = Host("unset")
    endpoint: Endpoint | None = None
    shared: Shared | None = None
    _socket: socket | None = None

    def __init__(self, entry: Host, endpoint: Endpoint, shared: Shared) -> None:
        super().__init__(endpoint.host, user=endpoint.user, port=endpoint.port, config=shared.config)
        self.entry = entry
        self.endpoint = endpoint
        self.shared = shared

    @property
    def settings(self) -> Settings:
        """The settings this connection was made with."""
        return self._shared.settings

    @property
    def _shared(self) -> Shared:
        assert self.shared is not None
        return self.shared

    def use_socket(self, sock: socket) -> None:
        """Take over an open socket on which the server has already spoken."""
        self._socket = sock

    def open(self) -> None:
        """Exchange keys, check the host's, and log in; dials first if nobody did.

        Raises HostFailure with one of the unreachable reasons.
        """
        if self.is_connected:
            return
        with self._shared.handshakes.slot():
            transport, presented = self._meet()
            try:
                self._admit(presented)
                self._log_in(transport)
            except BaseException:
                transport.close()
                raise
            # The one private name we need: SSHClient has no public way to take a Transport.
            self.client._transport = transport
            self.transport = transport

    def present_key(self) -> PresentedKey:
        """Exchange keys with the host without logging in, and judge the key that it presents."""
        with self._shared.handshakes.slot():
            transport, presented = self._meet()
            transport.close()
            return presented

    def _meet(self) -> tuple[paramiko.Transport, PresentedKey]:
        assert self.endpoint is not None
        name = host_pattern(self.endpoint.key_name, self.endpoint.port)
        known = self._shared.known_hosts(self.endpoint)
        key_types: tuple[str, ...] = ()
        for _ in range(2):
            sock = self._socket or _dial_one(self.endpoint, self.settings)
            self._socket = None
            transport = self._exchange(sock, key_types)
            key = transport.get_remote_server_key()
            presented = known.judge(name, key.get_name(), key.asbytes())
            if presented.verdict is not Verdict.OTHER_TYPE:
                return transport, presented
            # Known by a key of another type than the one presented: ask for that type, once.
            key_types = known.types_of(name)
            transport.close()
        raise HostFailure("host-key", "the server does not offer a key of the type that known_hosts has")

    def _exchange(self, sock: socket, key_types: Sequence[str]) -> paramiko.Transport:
        with contextlib.suppress(OSError):
            sock.setsockopt(6, TCP_USER_TIMEOUT, LOST_AFTER_MS)
        timeout = self.settings.login_timeout_seconds
        transport = QuickTransport(sock)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout
        if key_types and not transport.ask_for(key_types):
            transport.close()
            raise HostFailure("host-key", f"known only by a key of type {', '.join(key_types)}")
        start = time.monotonic()
        try:
            transport.start_client(timeout=timeout)
        except (paramiko.SSHException, EOFError) as error:
            transport.close()
            if time.monotonic() - start < timeout:
                raise classified(error) from error
        if not transport.initial_kex_done:
            # When its time is up, start_client() returns silently or reports whatever broke by then.
            transport.close()
            raise HostFailure("timeout", f"no end of the key exchange within {timeout:g} s")
        return transport

    def _admit(self, presented: PresentedKey) -> None:
        if presented.verdict is Verdict.KNOWN:
            return
        if presented.verdict is not Verdict.UNKNOWN:
            raise HostFailure("host-key", presented.warning)
        if not self.settings.accept_new_host_keys:
            raise HostFailure("host-key", f"unknown key {presented.shown}; inv trust, or --accept-new-host-keys")
        assert self.endpoint is not None
        known = self._shared.known_hosts(self.endpoint)
        with _here("the key cannot be remembered in"):
            known.remember(presented.name, presented.key_type, presented.key)

    def _log_in(self, transport: paramiko.Transport) -> None:
        assert self.endpoint is not None
        user, password = self.endpoint.user, self._shared.password
        refusal = HostFailure("auth", "no private key found; make one with: inv authorize")
        for identity in self._shared.identities(self.endpoint):
            answer = _refusal(transport, user, functools.partial(transport.auth_publickey, user, identity.key))
            if answer is None:
                return
            refusal = answer
            if not transport.is_active():
                raise refusal
        if password is not None:
            answer = _refusal(transport, user, lambda: transport.auth_password(user, password.reveal()))
            if answer is None:
                return
            only = answer.detail.startswith("the server only takes")
            refusal = answer if only else HostFailure("auth", f"{user}: the server refuses the password")
        raise refusal

    def execute(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        check: bool = True,
        on_output: Callable[[str, bytes], None] | None = None,
        close_stdin: bool = True,
    ) -> Completed:
        """Run a command and return what it printed.

        A sequence is an argv, quoted here; a string goes to the account's login shell as it is. ``timeout`` in
        seconds (default: ``command_timeout_seconds``). ``on_output("stdout"|"stderr", chunk)`` is called with every
        chunk as it comes, which is then not kept. Without ``close_stdin`` its standard input stays open until the
        connection ends, so that it can tell when we go away. Raises HostFailure: ``exit N`` when ``check``,
        ``command-timeout``, ``lost``.
        """
        self.open()
        line = command if isinstance(command, str) else command_line(command)
        seconds = self.settings.command_timeout_seconds if timeout is None else timeout
        deadline = time.monotonic() + seconds
        try:
            channel = self.transport.open_session(timeout=seconds)
            try:
                # Words may hold bytes that are no UTF-8.
                channel.exec_command(line.encode("utf-8", "surrogateescape"))
                stdout, stderr, code = converse(channel, Input(stdin, close_stdin), deadline, on_output)
            finally:
                channel.close()
        except TimeoutError:
            raise HostFailure("command-timeout", f"no end within {seconds:g} s{_shown(command)}") from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostFailure("lost", f"the connection broke: {error}") from error
        if code < 0:
            if not self.transport.is_active():
                raise HostFailure("lost", "the connection broke while the command ran")
            raise HostFailure("signal", f"ended by a signal{_shown(command)}")
        if check and code != 0:
            raise failure_of(code, stderr or stdout)
        return Completed(code, stdout, stderr)

    def python(
        self,
        source: str,
        *args: str,
        stdin: bytes = b"",
        timeout: float | None = None,
        check: bool = True,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> Completed:
        """Run a small python3 (>= 3.8) program there; the source travels over stdin, ``stdin`` follows it."""
        code = source.encode()
        # -I -S: no site packages, no PYTHON* of the account: starts in half the time and has no surprises.
        loader = f"import sys;exec(compile(sys.stdin.buffer.read({len(code)}),'roomful','exec'))"
        done = self.execute(
            ["python3", "-I", "-S", "-c", loader, *args],
            stdin=code + stdin,
            timeout=timeout,
            check=False,
            on_output=on_output,
        )
        if not_found("python3", done.exit_code, done.stderr):
            raise HostFailure("no-python", "python3 (3.8 or newer) is needed there")
        if check and done.exit_code != 0:
            raise failure_of(done.exit_code, done.stderr or done.stdout)
        return done

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        """Write a file there, atomically; ``path`` is absolute or relative to the home."""
        # Where the connection ends in the middle, cat takes that for the end of the file.
        script = (
            'umask 077; t="$1.$$.tmp"; cat > "$t" && [ "$(wc -c < "$t")" -eq "$3" ] && chmod "$2" "$t" '
            '&& mv -f "$t" "$1" || { rm -f "$t"; exit 1; }'
        )
        self.execute(["sh", "-c", script, "put", path, f"{mode:o}", str(len(data))], stdin=data)

    def close(self) -> None:
        """Close the connection; safe to call at any time, from any thread."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        transport = self.client.get_transport()
        if transport is not None:
            transport.close()


def failure_of(code: int, output: bytes) -> HostFailure:
    """Name the reason behind a remote command that failed, from its exit code and what it printed last."""
    lines = output.decode(errors="replace").strip().splitlines()
    detail = lines[-1].strip() if lines else ""
    if "No space left on device" in detail:
        return HostFailure("disk-full", detail)
    if "Disk quota exceeded" in detail:
        return HostFailure("quota", detail)
    return HostFailure(f"signal {code - 128}" if 128 < code < 160 else f"exit {code}", detail)


def classified(error: Exception) -> HostFailure:
    """Name the reason behind what broke a connection."""
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError) or "timeout" in text.lower() or "timed out" in text.lower():
        return HostFailure("timeout", f"no end of the key exchange: {text}")
    if isinstance(error, paramiko.AuthenticationException):
        return HostFailure("auth", text)
    if isinstance(error, EOFError):
        text = "the server closed the connection during the key exchange"
    return HostFailure("protocol", text)


def _refusal(transport: paramiko.Transport, user: str, log_in: Callable[[], object]) -> HostFailure | None:
    """Try a way to log in; return why the server refuses it, None if it lets us in. Raises what ends the matter."""
    try:
        log_in()
        return None
    except paramiko.BadAuthenticationType as error:
        return HostFailure("auth", f"the server only takes {', '.join(error.allowed_types)}")
    except paramiko.AuthenticationException as error:
        if "timeout" in str(error).lower():
            seconds = transport.auth_timeout
            raise HostFailure("timeout", f"the server does not finish the login within {seconds:g} s") from error
        detail = "the server refuses our key" if transport.is_active() else str(error)
        return HostFailure("auth", f"{user}: {detail}")
    except paramiko.SSHException as error:
        raise classified(error) from error


def _dial_one(endpoint: Endpoint, settings: Settings) -> socket:
    answers: list[socket | HostFailure] = []
    Dialer([endpoint.address], settings.connect_timeout_seconds).run(lambda _, answer: answers.append(answer))
    answer = answers[0]
    if isinstance(answer, HostFailure):
        raise answer
    return answer


def _shown(command: str | Sequence[str]) -> str:
    """Name a command in a message; our own programs, whose text says nothing to anybody, are left out."""
    if not isinstance(command, str) and command[0] in ("sh", "python3"):
        return ""
    line = command if isinstance(command, str) else command_line(command)
    return f": {line if len(line) <= 80 else f'{line[:77]}...'}"
