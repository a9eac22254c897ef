"""Take a payload into a seed folder, and pass it on to the next host while it comes: see seed.py, hop.py, direct.py.

It comes from standard input, after a request whose length in eight digits stands before it; or from the host before,
without SSH.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any

from roomful.workdir.direct import await_sender, dial, open_door
from roomful.workdir.files import ANSWER, Refusal, described, raw, reason_of
from roomful.workdir.hop import ALIVE, Hop
from roomful.workdir.marks import leave_mark
from roomful.workdir.releases import Store
from roomful.workdir.seed import Seed

#: A payload of which nothing has come for this long comes no more.
SILENCE_SECONDS = 150.0


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Say which files are not here yet, by their place in the list, and whose disk this is.

    With a ``secret``, listen for the host before for ``door_seconds``, and say where.
    """
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    name = store.current()
    record = store.record(name)
    known = record.items if record else {}
    lacks = []
    for number, (path, kind, _, _, content) in enumerate(request["items"]):
        item = known.get(raw(path))
        if kind == "file" and (item is None or item.content != content):
            lacks.append(number)
    return {
        "lacks": lacks,
        "seen": leave_mark(store.own, request["run"], request["index"]),
        "ssh": shutil.which("ssh") is not None,
        "door": open_door(lambda door: receive(door, request)) if request["secret"] and lacks else None,
    }


def receive(door: socket.socket, asked: dict[str, Any]) -> None:
    """Take the payload from the host before, which is to prove itself; an empty request only closes the door."""
    peer, packed = await_sender(door, asked["secret"], asked["index"], asked["door_seconds"])
    # A host before that is frozen or cut off hangs up on nobody.
    peer.settimeout(SILENCE_SECONDS)
    with peer, peer.makefile("rb") as stream:
        if not packed:
            return
        request = {**json.loads(zlib.decompress(packed)), "secret": asked["secret"]}
        peer.sendall(answer_to(request, stream, lambda: peer.sendall(ALIVE)))


def pass_on(request: dict[str, Any], stream: IO[bytes], alive: Callable[[], object]) -> dict[str, Any]:
    """Take the payload and pass it on; say which hosts have it, this one first, and which of them without SSH."""
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    if request.get("door"):
        # The first host has none before it.
        with contextlib.suppress(OSError, Refusal):
            door = request["door"]
            dial(door["address"], door["port"], request["secret"], request["index"], b"").close()
    seed = Seed(os.path.join(store.staging, raw(request["seed"])))
    following = Hop(request, seed) if request["hops"] else None
    after: dict[str, Any] = {"have": [], "directly": []}
    try:
        if request["source"] == "seed":
            seed.load()
        else:
            seed.take(stream, request["limit"])
    finally:
        seed.cut()
        if following:
            after = following.finish(alive)
    return {**after, "have": [request["index"], *after["have"]]}


def answer_to(request: dict[str, Any], stream: IO[bytes], alive: Callable[[], object]) -> bytes:
    try:
        answer = look(request) if request["source"] == "look" else pass_on(request, stream, alive)
    except Refusal as refusal:
        answer = {"failed": refusal.reason, "detail": refusal.detail}
    except OSError as error:
        answer = {"failed": reason_of(error), "detail": described(error)}
    return f"{ANSWER}{json.dumps(answer)}\n".encode()


def main() -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer

    def alive() -> None:
        stdout.write(ALIVE)
        stdout.flush()

    request = json.loads(zlib.decompress(stdin.read(int(stdin.read(8)))))
    stdout.write(answer_to(request, stdin, alive))
    stdout.flush()
