"""The way to Valkey: its socket here, or one that is forwarded from the host where it runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roomful.agent.keeper_link import escaped
from roomful.agent.private import SOCKET_PATH_BYTES
from roomful.agent.server_folder import DATA
from roomful.agent.valkey import ping
from roomful.errors import ServerError
from roomful.hosts import Host
from roomful.login_shell import command_line
from roomful.openssh import ssh_argv
from roomful.queue import Queue
from roomful.settings import Settings

START_IT = "start it with: inv start-server"
#: Seconds in which a supervisor has Valkey running again, and in which Valkey has read a large file.
RESTART_SECONDS = 15.0
LOADING_SECONDS = 120.0


@dataclass(frozen=True)
class Access:
    """A way to Valkey."""

    #: The Unix socket here; where the server is on a host, a forwarded one.
    socket: str
    #: The server's folder, on its machine.
    directory: str
    #: Label of the server's host, empty for this machine.
    on: str
    #: Password of each ACL user.
    passwords: Mapping[str, str] = field(repr=False)
    #: Its supervisor was there: if Valkey is not, it comes back in a moment.
    supervised: bool

    @contextlib.contextmanager
    def queue(self, cluster: str) -> Iterator[Queue]:
        """Connect to the queue; raises ServerError."""
        password = self.passwords["controller"]
        patience = {"down": RESTART_SECONDS if self.supervised else 0.0, "loading": LOADING_SECONDS}
        start = time.monotonic()
        while (answer := ping(self.socket, "controller", password, timeout=10.0)) in patience:
            if time.monotonic() - start >= patience[answer]:
                what = "the server does not run" if answer == "down" else "the server still reads its data"
                fix = START_IT if answer == "down" else "try again in a while"
                raise ServerError(what, where=self.on, fix=fix)
            time.sleep(0.05)
        with Queue.connect(self.socket, cluster, username="controller", password=password) as queue:
            queue.data = None if self.on else Path(self.directory, DATA)
            yield queue


@contextlib.contextmanager
def tunnel(host: Host, settings: Settings, known: Mapping[str, Any]) -> Iterator[Access]:
    """Forward a Unix socket here to the server's, by one OpenSSH child that lives as long as the block."""
    socket, directory = str(known["socket"]), str(known["directory"])
    folder = Path(tempfile.mkdtemp(prefix="roomful-"))
    local = folder / "queue.sock"
    try:
        if len(os.fsencode(local)) > SOCKET_PATH_BYTES:
            raise ServerError(
                "the name of the temporary folder is too long", where=str(folder), fix="set TMPDIR=/tmp"
            )
        remote = command_line(["python3", "-I", "-S", str(known["zipapp"]), "server", "access", directory])
        options = ["-T", "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindMask=0177"]
        options += ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "RemoteCommand=none"]
        options += ["-L", f"{local}:{escaped(socket)}"]
        child = subprocess.Popen(
            ssh_argv(host, settings, *options, command=[remote]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            # An account's .bashrc may have its say first.
            line = next((line for line in child.stdout if line.startswith(b"{")), b"")
            if not line:
                _, noise = child.communicate()
                raise ServerError("cannot reach the server", where=host.label, why=_last_line(noise), fix=START_IT)
            reply = json.loads(line)
            if not reply["passwords"]:
                raise ServerError("the server does not run", where=host.label, fix=START_IT)
            yield Access(str(local), directory, host.label, reply["passwords"], bool(reply["running"]))
        finally:
            _end(child)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()


def _last_line(noise: bytes) -> str:
    lines: Sequence[str] = noise.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
