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
import threading
import time
import zlib
from collections.abc import Callable
from typing import IO, Any

from roomful.workdir.direct import Caller, await_sender, dial, open_door
from roomful.workdir.files import ANSWER, Refusal, described, raw, reason_of
from roomful.workdir.hop import ALIVE, Hop
from roomful.workdir.marks import leave_mark
from roomful.workdir.pieces import MOST_FILES, pieces_of
from roomful.workdir.releases import Store
from roomful.workdir.seed import Seed
from roomful.workdir.space import refuse_too_much

#: A payload of which nothing has come for this long comes no more: a host before that is frozen hangs up on nobody.
SILENCE_SECONDS = 150.0


def look(request: dict[str, Any]) -> tuple[dict[str, Any], socket.socket | None]:
    """Say which files are not here yet, by their place in the list, and whose disk this is.

    With ``pieces``, also show some of the older versions of those files. With a ``secret``, also listen for the host
    before, and say where.
    """
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    name = store.current()
    record = store.record(name)
    known = record.items if record else {}
    lacks = []
    older: dict[int, tuple[int, list[str]]] = {}
    for number, (path, kind, _, _, content) in enumerate(request["items"]):
        item = known.get(raw(path))
        if kind == "file" and (item is None or item.content != content):
            lacks.append(number)
            if item is not None and name is not None and request["pieces"] and len(older) < MOST_FILES:
                size, pieces = pieces_of(os.path.join(store.release(name), raw(path)))
                if pieces:
                    older[number] = size, pieces
    # Who has no room is not on the way; deploy says what is missing there.
    refuse_too_much(store.workdir, sum(int(request["items"][number][3]) for number in lacks))
    seen = leave_mark(store.own, request["run"], request["index"])
    # Of those that share a disk the first one is on the way.
    awaited = lacks and request["secret"] and not any(index < request["index"] for index in seen)
    door = open_door() if awaited else None
    address = dict(zip(("address", "port"), door.getsockname())) if door else None
    ssh = shutil.which("ssh") is not None
    return {"lacks": lacks, "older": older, "seen": seen, "ssh": ssh, "door": address}, door


def receive(door: socket.socket, asked: dict[str, Any], wanted: Callable[[], bool]) -> None:
    """Take the payload from the host before, which is to prove itself; an empty request only closes the door."""
    peer, packed = await_sender(door, asked["secret"], asked["index"], wanted)
    with peer, peer.makefile("rb") as stream:
        if not packed:
            return
        request = {**json.loads(zlib.decompress(packed)), "secret": asked["secret"]}
        peer.sendall(answer_to(lambda: pass_on(request, stream, lambda: peer.sendall(ALIVE))))


def pass_on(request: dict[str, Any], stream: IO[bytes], alive: Callable[[], object]) -> dict[str, Any]:
    """Take the payload and pass it on.

    Says which hosts have it, this one first, which of them without SSH, and which could not be reached from where.
    """
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    if request.get("door"):
        # The first host has none before it.
        with contextlib.suppress(OSError, Refusal):
            door = request["door"]
            dial(door["address"], door["port"], request["secret"], request["index"], b"").close()
    seed = Seed(os.path.join(store.staging, raw(request["seed"])))
    threading.Thread(target=end_with, args=(seed,), daemon=True).start()
    following = Hop(request, seed) if request["hops"] else None
    after: dict[str, Any] = {"have": [], "directly": [], "missed": []}
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


def end_with(seed: Seed) -> None:
    """End this process when its payload has stopped to come; what it started for the next host ends with it."""
    while seed.silence() < SILENCE_SECONDS:
        time.sleep(SILENCE_SECONDS / 10)
    os._exit(1)


def answer_to(work: Callable[[], dict[str, Any]]) -> bytes:
    try:
        answer = work()
    except Refusal as refusal:
        answer = {"failed": refusal.reason, "detail": refusal.detail}
    except OSError as error:
        answer = {"failed": reason_of(error), "detail": described(error)}
    return f"{ANSWER}{json.dumps(answer)}\n".encode()


def main() -> None:
    stdin = sys.stdin.buffer

    def say(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    request = json.loads(zlib.decompress(stdin.read(int(stdin.read(8)))))
    if request["source"] != "look":
        say(ALIVE)
        say(answer_to(lambda: pass_on(request, stdin, lambda: say(ALIVE))))
        return
    doors: list[socket.socket] = []

    def looked() -> dict[str, Any]:
        answer, door = look(request)
        doors.extend([door] if door else [])
        return answer

    say(answer_to(looked))
    for door in doors:
        with contextlib.suppress(OSError, Refusal):
            receive(door, request, Caller(stdin.fileno()).is_there)
