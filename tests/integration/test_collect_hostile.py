"""A host whose rsync lies: whatever file list it sends, nothing is written outside its folder, and nothing shown raw.

The host's rsync is the real one behind a program that changes what it says on the way: the file list travels plainly.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roomful import growth, rsync
from roomful.collect import Collected, collect
from roomful.hosts import resolve
from roomful.lab import Lab
from roomful.outcome import Outcome
from roomful.settings import Settings
from tests.support.inv import Project, project_for
from tests.support.lab import settings_for

#: As in the file list of rsync's protocol, four bytes little-endian.
REGULAR = b"\xa4\x81\x00\x00"
LINK, DEVICE, PIPE, SETUID = b"\xff\xa1\x00\x00", b"\xb6\x61\x00\x00", b"\xa4\x11\x00\x00", b"\xed\x8d\x00\x00"

LIAR = """\
#!/usr/bin/python3
import os, subprocess, sys
old, new, said = %r, %r, %r
sys.stderr.buffer.write(said)
sys.stderr.flush()
process = subprocess.Popen(["/usr/bin/rsync", *sys.argv[1:]], stdout=subprocess.PIPE)
while data := os.read(process.stdout.fileno(), 1 << 16):
    if old and old in data:
        open(os.environ["HOME"] + "/lied", "w").close()
        data = data.replace(old, new)
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
sys.exit(process.wait() or (9 if said else 0))
"""


#: Answers as rsync does, up to the list of files, and then only says that it is still there.
STALLER = """\
#!/usr/bin/python3
import os, subprocess, sys, time
process = subprocess.Popen(["/usr/bin/rsync", *sys.argv[1:]], stdout=subprocess.PIPE)
while b"never" not in (data := os.read(process.stdout.fileno(), 1 << 16)):
    os.write(1, data)
while True:
    # A message without content (MPLEX_BASE + MSG_NOOP): length 0, tag 7 + 42.
    os.write(1, b"\\0\\0\\0" + bytes([7 + 42]))
    time.sleep(1)
"""


INFLATER = """\
#!/usr/bin/python3
import os, sys
path, size = %r, %d
for full in [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]:
    os.truncate(full, size)
    if size < 100_000:
        with open(full, "wb") as file:
            file.write(os.urandom(size))
os.execv("/usr/bin/rsync", ["rsync", *sys.argv[1:]])
"""


class Liar:
    """A host with a workdir, whose rsync replaces ``old`` by ``new`` in what it says."""

    def __init__(self, room: Lab) -> None:
        self.home = room.host_directory("lab01") / "home"
        self.program = self.home.parent / "bin" / "rsync"
        self.workdir = self.home / f"hostile{os.urandom(4).hex()}"
        self.workdir.mkdir()
        (self.workdir / "honest").write_text("honest")

    def make(self, name: bytes) -> None:
        path = Path(os.fsdecode(os.fsencode(self.workdir) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("evil")
        path.chmod(0o644)

    def says(self, old: bytes, new: bytes, said: bytes = b"") -> None:
        (self.home / "lied").unlink(missing_ok=True)
        assert len(old) == len(new)
        self.program.parent.mkdir(exist_ok=True)
        self.program.write_text(LIAR % (old, new, said))
        self.program.chmod(0o755)

    def inflates(self, name: bytes, size: int) -> None:
        """Make a file, or all in a folder, this large when rsync is called: after they have been listed."""
        self.program.parent.mkdir(exist_ok=True)
        self.program.write_text(INFLATER % (os.fsencode(self.workdir) + b"/" + name, size))
        self.program.chmod(0o755)

    @property
    def lied(self) -> bool:
        return (self.home / "lied").exists()


@pytest.fixture
def liar(rootless_lab: Lab, program: Callable[[str], str]) -> Iterator[Liar]:
    program("rsync")
    found = Liar(rootless_lab)
    yield found
    found.program.unlink(missing_ok=True)


@pytest.fixture
def settings(rootless_lab: Lab, tmp_path: Path, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # A lie can leave both sides waiting, each assuring the other that it is still there.
    monkeypatch.setattr(growth, "STUCK_SECONDS", 10.0)
    return settings_for(rootless_lab, tmp_path / "project", workdir=f"~/{liar.workdir.name}")


@pytest.fixture(params=["", "--trust-sender"], ids=["this rsync", "as before 3.2.5"])
def checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """rsync compares with what was asked for since 3.2.5; what must hold without that, too, is tried without."""
    real = rsync.pull_options
    if request.param:
        monkeypatch.setattr(rsync, "pull_options", lambda files: [*real(files), request.param])
    return str(request.param)


def collected(settings: Settings) -> Outcome[Collected]:
    (outcome,) = collect(resolve("lab01", settings), settings)
    return outcome


def written(folder: Path) -> dict[str, int]:
    """Everything below a folder that is no folder, with its mode."""
    return {
        str(path.relative_to(folder)): path.lstat().st_mode
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (b"QQ/escaped", b"QQ", b".."),
        (b"QQ/QQ/QQ/escaped", b"QQ", b".."),
        (b"QQ", b"QQ", b".."),
        (b"deep/QQ/QQ/escaped", b"QQ", b".."),
    ],
    ids=["one up", "far up", "the folder itself", "from within"],
)
def test_names_that_lead_up_are_refused(
    settings: Settings, liar: Liar, tmp_path: Path, checks: str, name: bytes, old: bytes, new: bytes
) -> None:
    liar.make(name)
    liar.says(old, new)
    before = written(tmp_path)
    assert collected(settings).status == "failed"
    assert liar.lied
    assert written(tmp_path) == before


def test_absolute_names_are_refused(settings: Settings, liar: Liar, tmp_path: Path, checks: str) -> None:
    goal = os.fsencode(tmp_path / "absolute")
    liar.make(b"Q" * len(goal))
    liar.says(b"Q" * len(goal), goal)
    before = written(tmp_path)
    assert collected(settings).status == "failed"
    assert liar.lied
    assert written(tmp_path) == before


def test_a_host_that_answers_and_sends_nothing_is_given_up(settings: Settings, liar: Liar) -> None:
    liar.make(b"never")
    liar.program.parent.mkdir(exist_ok=True)
    liar.program.write_text(STALLER)
    liar.program.chmod(0o755)
    outcome = collected(settings)
    assert (outcome.status, outcome.reason, outcome.detail) == ("failed", "lost", "no file has grown for 10 s")


@pytest.mark.parametrize("slack", [1 << 16, 1 << 20], ids=["far more", "a little more"])
def test_more_bytes_than_were_listed_are_not_taken(
    settings: Settings, liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slack: int
) -> None:
    monkeypatch.setattr(growth, "SLACK_BYTES", slack)
    liar.make(b"bomb")
    # What is sent is another file than was listed.
    liar.inflates(b"bomb", (1 << 30) if slack == 1 << 16 else (1 << 20) + 5000)
    outcome = collected(settings)
    assert (outcome.status, outcome.reason) == ("failed", "protocol")
    assert "sends more" in outcome.detail
    results = tmp_path / "project" / "results"
    assert "bomb" not in [Path(name).name for name in written(results)]
    assert sum(path.stat().st_size for path in results.rglob("*")) < 1 << 20


def test_many_files_that_each_grew_a_little_are_too_much_together(
    settings: Settings, liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "SLACK_BYTES", 100_000)
    real = rsync.pull_options
    monkeypatch.setattr(rsync, "pull_options", lambda files: [*real(files), "--bwlimit=1000"])
    for number in range(30):
        liar.make(b"grows/%d" % number)
    liar.inflates(b"grows", 90_000)
    outcome = collected(settings)
    assert (outcome.status, outcome.reason) == ("failed", "protocol")
    assert "more than the" in outcome.detail
    assert sum(path.stat().st_size for path in (tmp_path / "project" / "results").rglob("*")) < 1_000_000


def test_a_file_that_grows_as_logs_do_is_brought(settings: Settings, liar: Liar, tmp_path: Path) -> None:
    liar.make(b"log")
    liar.inflates(b"log", 5_000_000)
    assert collected(settings).status == "ok"
    assert (tmp_path / "project" / "results" / "lab01" / "log").stat().st_size == 5_000_000


def test_names_that_nobody_asked_for_are_refused(settings: Settings, liar: Liar, tmp_path: Path) -> None:
    liar.make(b"QQQQQQ")
    liar.says(b"QQQQQQ", b"\x1b]0;\n7")
    before = written(tmp_path)
    outcome = collected(settings)
    assert liar.lied
    assert (outcome.status, written(tmp_path)) == ("failed", before)
    assert "unrequested" in outcome.detail


@pytest.mark.parametrize("mode", [LINK, DEVICE, PIPE, SETUID], ids=["link", "device", "pipe", "setuid"])
def test_only_plain_files_are_made(settings: Settings, liar: Liar, tmp_path: Path, checks: str, mode: bytes) -> None:
    liar.make(b"made")
    liar.says(REGULAR, mode)
    collected(settings)
    assert liar.lied
    for name, made in written(tmp_path / "project" / "results").items():
        assert stat.S_ISREG(made), name
        assert made & 0o7000 == 0, name


def test_nothing_of_it_reaches_the_terminal_raw(rootless_lab: Lab, liar: Liar, tmp_path: Path) -> None:
    for folder in ("home", "project"):
        (tmp_path / folder).mkdir()
    made = project_for(rootless_lab, tmp_path / "project", tmp_path / "home")
    project = Project(made.root, {**made.environment, "INVOKE_ROOMFUL_WORKDIR": f"~/{liar.workdir.name}"})
    os.symlink("/etc/passwd", os.fsencode(liar.workdir) + b"/\x1b[2Jlink\n")
    liar.says(b"", b"", b"\x1b]0;pwned\x07\r\x9b31m\n")
    done = project.inv("collect", "--hosts", "lab01")
    assert done.returncode == 1
    assert "pwned" in done.stdout + done.stderr
    liar.program.unlink()
    whole = project.inv("collect", "--hosts", "lab01")
    assert whole.returncode == 0, whole.stderr
    assert "left out 1" in whole.stderr
    said = done.stdout + done.stderr + whole.stdout + whole.stderr
    assert [c for c in said if not c.isprintable() and c != "\n"] == []
