"""The server's data: cut short, damaged, gone, or with no room left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from roomful.bundle import build_bundle
from roomful.errors import ServerError
from roomful.queue import TaskSpec
from roomful.server import Server, open_queue
from roomful.settings import Settings
from tests.support.server import commands, folder, processes_of, start, submit
from tests.support.waiting import wait_until


def manifest(project: Settings) -> Path:
    (path,) = folder(project).glob("data/appendonlydir/*.manifest")
    return path


def incremental(project: Settings) -> Path:
    """The append-only file that is being written."""
    (path,) = folder(project).glob("data/appendonlydir/*.incr.aof")
    return path


def test_a_record_cut_by_a_power_failure_is_dropped(project: Settings) -> None:
    start(project)
    submit(project, "echo before")
    Server(project, None).stop()
    with incremental(project).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$3\r\nabc\r\n$1000\r\nonly half")
    status = start(project)
    assert commands(project) == ["echo before"]
    assert "a write cut short" in status.why


def test_data_whose_manifest_is_gone_are_not_overwritten(project: Settings) -> None:
    start(project)
    submit(project, "echo before")
    Server(project, None).stop()
    kept = manifest(project).read_bytes()
    manifest(project).unlink()
    with pytest.raises(ServerError, match="would begin anew"):
        start(project)
    (folder(project) / "data" / "appendonlydir" / "appendonly.aof.manifest").write_bytes(kept)
    start(project)
    assert commands(project) == ["echo before"]


def test_damaged_data_are_named_and_left_as_they_are(project: Settings) -> None:
    start(project)
    submit(project, "echo before", "echo after")
    Server(project, None).stop()
    path = incremental(project)
    damaged = path.read_bytes().replace(b"\r\nHSET\r\n", b"\r\nHS\0\0garbage", 1)
    path.write_bytes(damaged)
    with pytest.raises(ServerError) as caught:
        start(project)
    assert "cannot read its data" in str(caught.value)
    assert f"bin/valkey-check-aof {manifest(project)}" in str(caught.value)
    assert "inv stop-server --forget" in str(caught.value)
    assert path.read_bytes() == damaged
    assert not processes_of(folder(project))
    # The advice works, word for word.
    tool = folder(project) / "bin" / "valkey-check-aof"
    check = subprocess.run([tool, manifest(project)], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert "not valid" in check.stdout + check.stderr
    Server(project, None).stop(forget=True)
    start(project)
    assert commands(project) == []


@pytest.mark.root
@pytest.mark.parametrize("more_kib", [-100, 16, 32])
def test_a_full_disk_is_named_and_nothing_is_left_running(project: Settings, more_kib: int) -> None:
    """A folder on a file system of its own that is too small: for the program, for our files, for Valkey's."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom roomful.errors import ServerError\n"
        "from roomful.server import Server\nfrom roomful.settings import Settings\n"
        "settings = Settings(root=Path(sys.argv[1]), server_directory=sys.argv[2])\n"
        "try:\n    Server(settings, None).start()\nexcept ServerError as error:\n    print(error)\n"
    )
    folder(project).mkdir(mode=0o700)
    size_kib = build_bundle(project.root / "bundle").path.stat().st_size // 1024 + more_kib
    script = f'mount -t tmpfs -o size={size_kib}k,mode=700 none "$1" && shift && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", script, "sh", project.server_directory]
    argv += [sys.executable, "-c", program, str(project.root), project.server_directory]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "No space left on device" in done.stdout, done
    assert not processes_of(folder(project))


def fill(path: Path) -> None:
    """Write until not a byte is free."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.root
def test_a_disk_that_fills_up_later_stops_nothing_but_writes(project: Settings) -> None:
    folder(project).mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", folder(project)], check=True)
    try:
        first = start(project).pids
        ballast = folder(project) / "ballast"
        fill(ballast)
        many = [TaskSpec(command=f"echo {number} {'x' * 1000}") for number in range(10_000)]
        with open_queue(project) as queue:
            with pytest.raises(ServerError, match="No space left on device; free some space on the server's disk"):
                queue.submit(many)
            status = Server(project, None).status()
            assert (status.state, status.pids) == ("cannot write", first)
            ballast.unlink()
            wait_until(lambda: Server(project, None).status().state == "ready", 15)
            queue.submit([TaskSpec(command="echo again")])
        Server(project, None).stop(forget=True)
    finally:
        Server(project, None).stop(forget=True)
        subprocess.run(["umount", folder(project)], check=True)
