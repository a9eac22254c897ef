"""What dsh and the dispatcher say to each other, which folder is which, and what NFS must look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roomful import dsh
from roomful.dispatch.folders import folders_of, mapped, stems_of
from roomful.dispatch.job import Order
from roomful.dispatch.sync import Plan, rsync_argv
from roomful.dispatch.wire import Request, WireError, parse
from roomful.errors import InputError
from roomful.remote import visit
from roomful.remote.load import load
from roomful.remote.visit import network_devices

CHECKOUT = Path(__file__).parents[2]


def sent(words: list[str]) -> Request:
    """What the dispatcher reads of a dsh with these arguments."""
    message = dsh.Call(words).message()
    assert int.from_bytes(message[:4], "big") == len(message) - 4
    return parse(message[4:])


def test_a_command_arrives_as_it_was_typed() -> None:
    words = ["cc", "", "-o", "a b", "x\ny", "é", os.fsdecode(b"\xff\xfe"), "--env", ""]
    before = os.umask(0o027)
    found = sent(["--retry", "2", "--chdir=/a=/b", "-v", *words])
    # Asking for it has not changed it.
    assert os.umask(before) == 0o027
    assert found.argv == tuple(words)
    known = {"retry": "2", "chdir": "/a=/b", "verbose": "yes", "cwd": os.getcwd(), "umask": "27"}
    assert found.options == known


def test_options_end_at_the_command_or_at_two_dashes() -> None:
    assert sent(["ls", "-v"]).argv == ("ls", "-v")
    assert sent(["-n", "--", "-v"]).argv == ("-v",)


def test_a_small_part_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LC_") or name in ("LANG", "TERM", "TZ")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("WANTED", "two\nlines")
    found = sent(["--env", "WANTED", "--env", "SET=a=b", "--env", "NOT_SET_HERE", "true"])
    assert found.env == {"LC_ALL": "C", "SOURCE_DATE_EPOCH": "1", "WANTED": "two\nlines", "SET": "a=b"}


@pytest.mark.parametrize("body", [b"", b"1", b"1\0run", b"1\0run\0a=b", b"2\0run\0\0\0", b"\xff" * 40])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        parse(body)


@pytest.mark.parametrize(
    "options",
    [
        {"cwd": "relative"},
        {},
        {"cwd": "/", "max-load": "x"},
        {"cwd": "/", "retry": "-1"},
        {"cwd": "/", "retry": "1.5"},
        {"cwd": "/", "rsh": "yes"},
        {"cwd": "/", "umask": "8"},
        {"cwd": "/", "umask": "0o22"},
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(WireError):
        Order.of(Request("run", options, {}, ("true",)))


def test_the_client_loads_next_to_nothing() -> None:
    """Its start is most of what a dispatch costs: every module it imports is paid for once a command."""
    program = f"""import sys
sys.path.insert(0, {str(CHECKOUT)!r})
before = set(sys.modules)
import roomful.dsh
print(*sorted(set(sys.modules) - before))"""
    done = subprocess.run([sys.executable, "-E", "-S", "-c", program], capture_output=True, text=True, check=True)
    allowed = {"__future__", "_socket", "_signal", "roomful", "roomful.dsh"}
    assert (
        set(done.stdout.split()) - {"os", "posixpath", "genericpath", "os.path", "stat", "_stat", "_collections_abc"}
        <= allowed
    )


@pytest.mark.parametrize(
    ("folder", "chdir", "there"),
    [
        ("/home/me/src", "", "/home/me/src"),
        ("/home/me/src", "/home/me=/data", "/data/src"),
        ("/home/me", "/home/me=/data", "/data"),
        ("/home/me", "/home/me/=/data/", "/data"),
        ("/home/meg", "/home/me=/data", "/home/meg"),
        ("/home/me/src", "/home/me=~", "~/src"),
        ("/a/b", "/=/mnt", "/mnt/a/b"),
        ("/", "/=/mnt", "/mnt"),
        ("/a=b/c", "/a=/x", "/a=b/c"),
        ("/home/me/src", "/home/me=/", "/src"),
        ("/home/me", "/home/me=/", "/"),
    ],
)
def test_folders_are_mapped_whole(folder: str, chdir: str, there: str) -> None:
    assert mapped(folder, chdir) == there


@pytest.mark.parametrize("chdir", ["/a", "a=/b", "/a=b", "="])
def test_a_bad_mapping_is_refused(chdir: str) -> None:
    with pytest.raises(InputError):
        mapped("/a", chdir)


def test_folders_that_a_command_may_touch_are_found_in_its_words() -> None:
    argv = ["gcc", "-c", "src/a.c", "-Iinc", "-o", "out/a.o", "--sysroot=/opt/x", "plain.c"]
    found = folders_of("/w", argv)
    assert found[0] == "/w"
    assert {"/w/src", "/w/inc", "/w/out", "/opt/x"} <= set(found)
    assert len(folders_of("/w", ["x", *(f"d{number}/f" for number in range(500))])) == 64


def test_a_line_for_a_shell_names_folders_and_files_too() -> None:
    argv = ["sh", "-c", "cd src && ./gen < in/a.txt >'out/b.txt'; make x"]
    assert {"/w/in", "/w/out"} <= set(folders_of("/w", argv))
    assert {"a", "b", "gen", "x"} <= set(stems_of(argv))


def test_network_filesystems_are_known_by_their_device_numbers() -> None:
    text = """36 25 0:32 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
37 25 0:33 / /mnt/two\\040words rw - fuse.sshfs x rw
25 1 8:1 / / rw - ext4 /dev/sda1 rw
40 25 0:40 / /nfs rw - tmpfs tmpfs rw
41 25 0:41 / /scratch rw - nfs server:/scratch rw,vers=3"""
    assert network_devices(text) == {os.makedev(0, 32), os.makedev(0, 33), os.makedev(0, 41)}


def test_what_is_on_a_network_is_opened_the_named_files_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"
    (folder / "c").mkdir(parents=True)
    for name in ("1.txt", "a.c", "a.o", "z.txt", "c/below"):
        (folder / name).write_text("x")
    os.mkfifo(folder / "a.fifo")
    opened: list[str] = []
    real = os.open

    def watched(path: str, flags: int, **options: int) -> int:
        opened.append(path)
        return real(path, flags, **options)

    monkeypatch.setattr(os, "open", watched)
    device = frozenset([folder.stat().st_dev])
    visit.visit([str(folder), f"{tmp_path}/no/such"], {"a"}, device)
    # The way there from the root down, then what is in it, then what is below.
    assert [path for path in opened if path in ("/", str(tmp_path), str(folder))][:3] == [
        "/",
        str(tmp_path),
        str(folder),
    ]
    files = [path for path in opened if "/" not in path]
    assert set(files[:2]) == {"a.c", "a.o"}
    assert set(files[2:4]) == {"1.txt", "z.txt"}
    assert files[4:] == ["below"]
    # On a disk of this machine's own nothing but the way there is opened.
    opened.clear()
    assert visit.visit([str(folder)], {"a"}, frozenset()) == 0
    assert opened[-1] == str(folder)


def test_no_more_is_opened_than_takes_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "MOST", 10)
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "f").write_text("x")
    assert visit.visit([str(tmp_path)], frozenset(), frozenset([tmp_path.stat().st_dev])) == 10


def test_rsync_travels_through_the_dispatcher() -> None:
    plan = Plan("me@n1:22", "/w", "~/w", "/run/my socket")
    forth, back = rsync_argv(plan, ".roomful-incoming-1"), rsync_argv(plan, "/w/.roomful-incoming-1", back=True)
    assert forth[-2:] == ["/w/", "roomful:w/"]
    assert back[-2:] == ["roomful:w/", "/w/"]
    assert "--update" in back
    assert "--update" not in forth
    shell = forth[forth.index("--rsh") + 1]
    assert shell.endswith("--socket '/run/my socket' --on me@n1:22 --rsh")
    assert not any(word.startswith("--delete") for word in forth + back)


def test_a_load_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("2.50 1.00 0.50 4/321 999\n")
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\nBuffers: 1 kB\n")
    found = load(tmp_path, tmp_path)
    # The one that reads it runs too.
    assert (found["load"], found["running"]) == (2.5, 3)
    assert (found["memory"], found["memory_free"]) == (102400, 61440)
    assert found["cpus"] == len(os.sched_getaffinity(0))
    # A cgroup's limits are the host's, as in the agents' heartbeats.
    files = {"self/cgroup": "0::/box\n", "box/cpu.max": "25000 100000\n", "box/memory.max": "40960\n"}
    for name, text in {**files, "cgroup.controllers": "cpu memory\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    limited = load(tmp_path, tmp_path)
    assert (limited["cpus"], limited["memory"]) == (0.25, 40960)
