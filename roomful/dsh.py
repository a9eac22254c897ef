"""dsh: run a command on the least-loaded machine, as if it were run here. The client of `roomful.dispatch`.

usage: dsh [OPTION...] COMMAND [ARGUMENT...]

  -n                  give the command no standard input
  -v                  say on stderr which host was chosen
  --chdir FROM=TO     the folder FROM here is the folder TO there
  --env NAME[=VALUE]  set a variable there; NAME alone: as it is here
  --sync              bring this folder there before, and what changed there back afterwards (rsync)
  --max-load X        take no host with more load for each CPU than X
  --on HOST           take this host
  --or-local          run the command here where no host can be taken
  --retry N           run it again on another host, at most N times, when its host is lost
  --socket PATH       the dispatcher's socket (default: that of the project around this folder, else the last started)

The command runs in this folder; LANG, LC_*, TERM, TZ and SOURCE_DATE_EPOCH go with it. Its exit code is ours, 128+N
for signal N; 127 and 126: it is not there, or no program; 125: dsh itself could not do its part.
"""
# This program is started once a command, in Makefiles thousands of times: it imports nothing that Python has not
# loaded for itself already. It hands its streams over to the dispatcher, which reads and writes them without us.

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn

    from roomful.dsh_terminal import Terminal

#: A request is a length (4 bytes), then fields that end with NUL: the version, the verb, options (``key=value``) up
#: to an empty field, environment entries up to an empty field, the command's words.
VERSION = b"1"
#: Answers: one byte, a length (4 bytes), the payload.
EXIT, ERROR, NOTE, LOCAL, DATA = b"X", b"E", b"N", b"L", b"D"
#: Exit code where dsh itself fails, as env(1) and timeout(1) have it.
OWN_FAILURE = 125
FORWARDED = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)
PASSED_ON = (b"LANG", b"TERM", b"TZ", b"SOURCE_DATE_EPOCH")


def request(
    verb: bytes, options: Iterable[bytes] = (), env: Iterable[bytes] = (), argv: Iterable[bytes] = ()
) -> bytes:
    """Return a request as bytes."""
    body = b"\0".join([VERSION, verb, *options, b"", *env, b"", *argv, b""])
    return len(body).to_bytes(4, "big") + body


def complain(text: bytes) -> None:
    """Say something on stderr, if anybody takes it."""
    try:  # noqa: SIM105  # contextlib would have to be imported
        os.write(2, b"dsh: " + text + b"\n")
    except OSError:
        pass


def fail(text: str) -> NoReturn:
    """Say what is wrong and end."""
    complain(os.fsencode(text))
    os._exit(OWN_FAILURE)


class Call:
    """What the command line asks for."""

    def __init__(self, given: Iterable[str]) -> None:
        self.options: list[bytes] = []
        self.env: list[bytes] = []
        self.socket = ""
        self.local = False
        words = list(given)
        while words and words[0].startswith("-"):
            word = words.pop(0)
            if word == "--":
                break
            if word in ("-h", "--help"):
                os.write(1, (__doc__ or "").encode())
                os._exit(0)
            if word == "-n":
                self.options.append(b"stdin=no")
            elif word == "-v":
                self.options.append(b"verbose=yes")
            elif word in ("--sync", "--rsh"):
                self.options.append(word[2:].encode() + b"=yes")
            elif word == "--or-local":
                self.local = True
                self.options.append(b"or-local=yes")
            else:
                self._take(word, words)
        self.argv = words

    def _take(self, word: str, words: list[str]) -> None:
        """Take an option that has a value: ``--name value`` or ``--name=value``."""
        name, equals, value = word.partition("=")
        if name not in ("--chdir", "--env", "--max-load", "--on", "--retry", "--socket"):
            fail(f"unknown option {word}; see dsh --help")
        if not equals:
            if not words:
                fail(f"{word} needs a value; see dsh --help")
            value = words.pop(0)
        if name == "--socket":
            self.socket = value
        elif name == "--env":
            key = os.fsencode(value)
            if not key or key.startswith(b"="):
                fail(f"--env needs NAME or NAME=VALUE, not {value!r}")
            if b"=" in key:
                self.env.append(key)
            elif key in os.environb:
                self.env.append(key + b"=" + os.environb[key])
        else:
            self.options.append(os.fsencode(f"{name[2:]}={value}"))

    def message(self) -> bytes:
        """Return the request."""
        env = [
            name + b"=" + value for name, value in os.environb.items() if name in PASSED_ON or name.startswith(b"LC_")
        ]
        mask = os.umask(0o77)
        os.umask(mask)
        options = [*self.options, b"cwd=" + os.fsencode(here()), b"umask=%o" % mask]
        return request(b"run", options, env + self.env, [os.fsencode(word) for word in self.argv])


def here() -> str:
    """Return this folder by the name that the shell has for it, if that is true: links lead elsewhere there."""
    try:
        real = os.getcwd()
    except OSError as error:
        fail(f"the current folder is gone: {error.strerror}")
    named = os.environ.get("PWD", "")
    try:
        same = named != real and named.startswith("/") and os.path.samefile(named, real)
    except OSError:
        same = False
    return named if same else real


def find_project() -> tuple[str, str]:
    """Return the project whose dispatcher to use, and its socket; both empty where there is none."""
    folder = os.environ.get("ROOMFUL_PROJECT", "") or here()
    while True:
        try:
            return folder, own_link(folder + "/.roomful/dispatcher")
        except OSError:
            if not folder:
                break
        folder = folder.rpartition("/")[0]
    if os.environ.get("ROOMFUL_PROJECT"):
        return "", ""
    try:
        folder = own_link(f"/tmp/roomful-{os.getuid()}/dispatch/project")
        return folder, own_link(folder + "/.roomful/dispatcher")
    except OSError:
        return "", ""


def own_link(path: str) -> str:
    """Read a link of ours: anybody can lay one into /tmp, and would get our command and streams. Raises OSError."""
    if os.lstat(path).st_uid != os.getuid():
        raise PermissionError
    return os.readlink(path)


def connect(call: Call) -> tuple[Any, str]:
    """Connect to the dispatcher, and start it where it does not run; returns a socket or what is wrong."""
    project, path = ("", call.socket) if call.socket else find_project()
    if not path:
        named = os.environ.get("ROOMFUL_PROJECT", "")
        which = f"ROOMFUL_PROJECT={named} has no dispatcher" if named else "there is no dispatcher"
        return None, f"{which}; start one in your project with: inv start-dispatcher --hosts NAME"
    problem = ""
    for again in (True, False):
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.connect(path)
            # struct ucred: process, user, group.
            owner = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8]
            if int.from_bytes(owner, sys.byteorder) == os.getuid():
                return sock, ""
            return None, f"the dispatcher at {path} is another user's"
        except OSError as error:
            problem = f"cannot reach the dispatcher at {path}: {error.strerror}"
        if again and project:
            problem = start(project) or problem
            path = find_project()[1]
    return None, problem


def start(project: str) -> str:
    """Start the project's dispatcher with what it was started with last; returns what went wrong."""
    # The project's own Invoke settings count, so Invoke starts it; only the first dsh of an hour pays for that.
    child = os.fork()
    if child == 0:
        try:
            os.chdir(project)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.execv(sys.executable, [sys.executable, "-m", "invoke", "start-dispatcher", "--quiet"])
        finally:
            os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"the dispatcher of {project} could not be started" if code else ""


def fill_streams() -> None:
    """Put /dev/null where a stream is closed, so that nothing else takes its number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def send(sock: Any, message: bytes, stdin: int) -> None:
    """Send the request with our three streams."""
    fds = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (stdin, 1, 2))
    sent = sock.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
    while sent < len(message):
        sent += sock.send(message[sent:])


def forward_signals(sock: Any) -> None:
    """Hand signals on to the command instead of obeying them; what is sent before must be out already."""
    # Python calls our handlers between its instructions: one that came just before a recv is seen after that. Where
    # nothing comes, the recv ends after a second (struct timeval).
    second = (1).to_bytes(8, sys.byteorder) + bytes(8)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, second)

    def forward(number: int, _: object) -> None:
        try:  # noqa: SIM105  # contextlib would have to be imported
            sock.send(bytes([number]))
        except OSError:
            pass

    def stop(number: int, _: object) -> None:
        forward(number, None)
        os.kill(os.getpid(), _signal.SIGSTOP)
        # Here we are again after SIGCONT.
        forward(_signal.SIGCONT, None)

    for number in FORWARDED:
        # What our parent ignores (nohup, a shell's background jobs) stays ignored.
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, forward)
    if _signal.getsignal(_signal.SIGTSTP) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGTSTP, stop)


def is_terminal(fd: int) -> bool:
    """Tell whether a descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def receive(sock: Any, count: int) -> bytes:
    """Receive so many bytes; fewer: the dispatcher has gone."""
    data = b""
    while len(data) < count:
        try:
            part = sock.recv(count - len(data))
        except BlockingIOError:
            continue  # its time limit: a signal has its turn
        except OSError:
            part = b""
        if not part:
            break
        data += part
    return data


def answers(sock: Any, terminal: Terminal | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield what the dispatcher says, a kind and a payload, and pass on meanwhile what is typed."""
    while True:
        if terminal:
            terminal.pump(sock)
        head = receive(sock, 5)
        if len(head) < 5:
            fail("the dispatcher has ended, and the command with it")
        yield head[:1], receive(sock, int.from_bytes(head[1:], "big"))


def local(call: Call) -> NoReturn:
    """Become the command, here."""
    for number in (*FORWARDED, _signal.SIGTSTP):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    # Python itself ignores these two.
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    for entry in call.env:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    try:
        os.execvp(call.argv[0], call.argv)
    except OSError as error:
        complain(os.fsencode(f"{call.argv[0]}: {error.strerror}"))
        os._exit(126 if isinstance(error, PermissionError) else 127)


def main(words: Iterable[str] | None = None) -> NoReturn:
    """Run the command."""
    # Until the command is asked for, signals do to us what they do to any program. Python would raise an exception.
    if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    call = Call(sys.argv[1:] if words is None else words)
    if not call.argv or not call.argv[0]:
        fail("no command given; see dsh --help")
    fill_streams()
    sock, problem = connect(call)
    if sock is None:
        if call.local:
            local(call)
        fail(problem)
    terminal = None
    if b"stdin=no" not in call.options and is_terminal(0):
        from roomful.dsh_terminal import Terminal

        terminal = Terminal()
    try:
        send(sock, call.message(), terminal.theirs if terminal else 0)
    except OSError as error:
        fail(f"the dispatcher does not listen: {error.strerror}")
    forward_signals(sock)
    if terminal:
        os.close(terminal.theirs)
    for kind, payload in answers(sock, terminal):
        if kind == EXIT:
            os._exit(payload[0])
        elif kind == LOCAL:
            if terminal:
                terminal.leave()
            local(call)
        elif kind in (ERROR, NOTE):
            complain(payload)
    os._exit(OWN_FAILURE)


if __name__ == "__main__":
    main()
