"""Take a payload from standard input into a seed folder, and pass it on to the next host while it comes.

A seed stands where a push that was cut would: what is in it need not be sent again, and is verified as everything is.
The stream is a line of JSON for each file, followed by its bytes; an empty line ends it. Before it, this program gets
a request whose length in eight digits comes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from typing import Any

from roomful.workdir.files import ANSWER, Refusal, below, described, kind_of, raw, reason_of, text
from roomful.workdir.marks import leave_mark
from roomful.workdir.releases import Store

CHUNK_BYTES = 1 << 18
#: What a host keeps for the next one while that logs in, in chunks.
MOST_WAITING = 128
#: A host that takes nothing for this long gets nothing more; the same for its answer at the end.
STALL_SECONDS = 30.0


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Say which files are not here yet, by their place in the list, and whose disk this is."""
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
    }


class Next:
    """The host after this one: the same program, started there over SSH, fed by a thread of its own."""

    def __init__(self, request: dict[str, Any]) -> None:
        hop, *rest = request["hops"]
        onward = json.dumps(dict(request, source="stdin", index=hop["index"], seed=hop["seed"], hops=rest)).encode()
        packed = zlib.compress(onward, 1)
        handle, self.known_hosts = tempfile.mkstemp(prefix="roomful-known-")
        with os.fdopen(handle, "w") as file:
            file.write(hop["host_key"] + "\n")
        argv = [word.replace("KNOWN_HOSTS", self.known_hosts) for word in hop["argv"]]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.chunks: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self.broken = False
        self.put(request["program"].encode() + b"%08d" % len(packed) + packed)
        self.thread = threading.Thread(target=self._feed, daemon=True)
        self.thread.start()

    def put(self, data: bytes | None) -> None:
        if not self.broken:
            try:
                self.chunks.put(data, timeout=STALL_SECONDS)
            except queue.Full:
                self.broken = True
                self.process.kill()

    def _feed(self) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        try:
            while True:
                data = self.chunks.get()
                if data is None:
                    break
                pipe.write(data)
            pipe.close()
        except OSError:
            self.broken = True
            with contextlib.suppress(queue.Empty):
                while True:
                    self.chunks.get_nowait()

    def finish(self, complete: bool) -> list[int]:
        """Wait until it has all, and return who has, from there on."""
        if not complete:
            self.process.kill()
        self.put(None)
        timer = threading.Timer(STALL_SECONDS + 60.0, self.process.kill)
        timer.start()
        try:
            assert self.process.stdout is not None
            said = self.process.stdout.read().rpartition(ANSWER.encode())[2]
            self.process.wait()
        finally:
            timer.cancel()
            os.unlink(self.known_hosts)
        try:
            return [int(index) for index in json.loads(said)["have"]]
        except (ValueError, KeyError, TypeError):
            return []


def pass_on(request: dict[str, Any]) -> dict[str, Any]:
    """Take the payload and pass it on; say which hosts have it, this one first."""
    store = Store(request["workdir"], request["dest"], request["key"])
    store.make()
    seed = os.path.join(store.staging, raw(request["seed"]))
    following = Next(request) if request["hops"] else None
    complete = False
    try:
        for data in kept(seed) if request["source"] == "seed" else taken(seed):
            if following:
                following.put(data)
        complete = True
    finally:
        after = following.finish(complete) if following else []
    return {"have": [request["index"], *after]}


def taken(seed: bytes) -> Iterator[bytes]:
    """Write what comes to the seed, and yield it."""
    stream = sys.stdin.buffer
    os.makedirs(seed, exist_ok=True)
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise Refusal("lost", "the payload was cut")
        yield line
        if line == b"\n":
            return
        header = json.loads(line)
        path = raw(header["path"])
        if path.startswith(b"/") or b".." in path.split(b"/"):
            raise Refusal("protocol", f"a path leads out of the payload: {header['path']}")
        full = os.path.join(seed, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        left = header["size"]
        with open(full, "wb") as file:
            while left:
                data = stream.read(min(left, CHUNK_BYTES))
                if not data:
                    raise Refusal("lost", "the payload was cut")
                file.write(data)
                left -= len(data)
                yield data
        os.chmod(full, header["mode"] & 0o777)
        os.utime(full, ns=(header["mtime_ns"], header["mtime_ns"]))


def kept(seed: bytes) -> Iterator[bytes]:
    """Yield what stands in a seed that is complete."""
    for path, info in below(seed):
        if kind_of(info) == "file":
            yield header_of(path, info)
            with open(os.path.join(seed, path), "rb") as file:
                yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    yield b"\n"


def header_of(path: bytes, info: os.stat_result) -> bytes:
    document = {"path": text(path), "size": info.st_size, "mode": info.st_mode, "mtime_ns": info.st_mtime_ns}
    return json.dumps(document).encode() + b"\n"


def main() -> None:
    stdin = sys.stdin.buffer
    request = json.loads(zlib.decompress(stdin.read(int(stdin.read(8)))))
    try:
        answer = (look if request["source"] == "look" else pass_on)(request)
    except Refusal as refusal:
        answer = {"failed": refusal.reason, "detail": refusal.detail}
    except OSError as error:
        answer = {"failed": reason_of(error), "detail": described(error)}
    sys.stdout.write(f"{ANSWER}{json.dumps(answer)}\n")
