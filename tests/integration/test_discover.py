"""`inv discover` as its users call it: real nmap, real packets, in network namespaces and in the lab."""

from __future__ import annotations

import ipaddress
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from roomful.hosts import read_host_list
from roomful.lab import Lab
from tests.support.lab import LabFactory, lab, rootless_lab, settings_for
from tests.support.silent_network import SilentNetwork, silent_network
from tests.support.waiting import wait_until

__all__ = ["lab", "rootless_lab"]

ROOT = Path(__file__).parents[2]
INV = [sys.executable, "-m", "invoke"]
SMALL = ipaddress.IPv4Network("10.77.4.0/23")
#: 10.77.4.0/23 with few hosts; names are given to the first two that are open.
COUNTS = (6, 2, 2)

Inv = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
    # For the tests that are somebody else.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture
def inv(project: Path, program: Callable[[str], str]) -> Inv:
    program("nmap")

    def call(
        *words: str, inside: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*inside, *INV, *words],
            cwd=project,
            env={**os.environ, "HOME": str(project), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def small(program: Callable[[str], str]) -> Iterator[SilentNetwork]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for name in ("ip", "nmap", "setpriv"):
        program(name)
    with silent_network(SMALL, counts=COUNTS) as plain:
        first, second, third = sorted(plain.open)[:3]
    # One name for one host, one name for two.
    names = {first: "One.Lab.Test", second: "pool.lab.test", third: "pool.lab.test"}
    with silent_network(SMALL, counts=COUNTS, names=names) as room:
        yield room


def states(document: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"open": set(), "closed": set(), "filtered": set()}
    for host in json.loads(document)["hosts"]:
        found[host["state"]].add(host["address"])
    return found


@pytest.mark.root
def test_a_silent_20_is_found_whole(inv: Inv, program: Callable[[str], str]) -> None:
    program("ip")
    with silent_network(seed=2) as room:
        start = time.monotonic()
        done = inv("discover", "--network", str(room.network), "--json", "--dns-timeout", "0", inside=room.argv())
        seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert states(done.stdout) == {"open": room.open, "closed": room.closed, "filtered": room.filtered}
    document = json.loads(done.stdout)
    assert (document["addresses"], document["up"], document["answering"]) == (4096, 60, 50)
    # About 4 s where nothing else runs; nmap's own way takes 20 s at least.
    assert seconds < 15


@pytest.mark.root
@pytest.mark.parametrize("ordinary_user", [False, True], ids=["root", "ordinary-user"])
def test_what_is_up_and_what_its_port_says(inv: Inv, small: SilentNetwork, ordinary_user: bool) -> None:
    done = inv(
        "discover",
        "--network",
        str(SMALL),
        "--json",
        "--dns-timeout",
        "0",
        inside=small.argv(ordinary_user=ordinary_user),
    )
    assert done.returncode == 0, done.stderr
    assert states(done.stdout) == {"open": small.open, "closed": small.closed, "filtered": small.filtered}


@pytest.mark.root
def test_the_table_is_on_stdout_and_the_rest_on_stderr(inv: Inv, small: SilentNetwork) -> None:
    done = inv("discover", "--network", str(SMALL), "--dns-timeout", "0", inside=small.argv())
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"host +address +port 22", lines[0])
    rows = [line.split() for line in lines[2:]]
    addresses = [ipaddress.IPv4Address(row[1]) for row in rows]
    assert addresses == sorted(ipaddress.IPv4Address(address) for address in small.up)
    assert {row[1]: row[2] for row in rows if row[1] in small.closed} == dict.fromkeys(small.closed, "closed")
    assert re.fullmatch(r"512 addresses asked in [0-9.]+ s: 10 up, 6 answer on port 22\n", done.stderr)


@pytest.mark.root
def test_names_that_lead_back_are_used_and_a_black_hole_costs_the_deadline_once(
    inv: Inv, small: SilentNetwork, project: Path
) -> None:
    start = time.monotonic()
    done = inv("discover", "--network", str(SMALL), "--dns-timeout", "1", "--output", "mine", inside=small.argv())
    assert time.monotonic() - start < 10
    assert done.returncode == 0, done.stderr
    one = next(address for address, name in small.names.items() if name == "One.Lab.Test")
    labels = {host.label for host in read_host_list(project / "host_lists" / "mine.txt").hosts}
    assert labels == {"one.lab.test", *(small.open - {one})}
    assert "note: the name server left 7 of 10 addresses unanswered: they have no name here\n" in done.stderr
    assert "note: pool.lab.test is the name of 2 addresses: these are used\n" in done.stderr
    assert "host_lists/mine.txt: 6 hosts (6 added, 0 removed)\n" in done.stderr
    assert (project / "host_lists" / "mine.txt").read_text().startswith("# Found by: inv discover --network=")


@pytest.mark.root
def test_match_and_an_existing_list(inv: Inv, small: SilentNetwork, project: Path) -> None:
    path = project / "host_lists" / "mine.txt"
    path.parent.mkdir()
    text = "# mine\n\nme@one.lab.test 2.0 3.0 rack=a # slow\nelsewhere.test # not here\n"
    path.write_text(text)
    words = ("discover", "--network", str(SMALL), "--dns-timeout", "1", "--output", "mine")
    done = inv(*words, "--match", ".lab.test", inside=small.argv())
    assert (done.returncode, path.read_text()) == (0, text), done.stderr
    assert "10 up, 1 of these fits --match, 1 answers on port 22\n" in done.stderr
    assert "host_lists/mine.txt: 2 hosts (0 added, 0 removed)\n" in done.stderr
    assert "on the list but not found, kept (--prune removes them): elsewhere.test\n" in done.stderr
    done = inv(*words, "--prune", inside=small.argv())
    assert path.read_text().startswith("# mine\n\nme@one.lab.test 2.0 3.0 rack=a # slow\n10.77.")
    assert "host_lists/mine.txt: 6 hosts (5 added, 1 removed)\nremoved: elsewhere.test\n" in done.stderr


@pytest.mark.root
def test_no_host_is_exit_code_1_and_no_list(inv: Inv, small: SilentNetwork, project: Path) -> None:
    empty = next(
        block for block in SMALL.subnets(new_prefix=28) if not any(host in small.up for host in map(str, block))
    )
    done = inv("discover", "--network", str(empty), "--output", "none", "--dns-timeout", "1", inside=small.argv())
    assert (done.returncode, done.stdout) == (1, "")
    assert "0 up, 0 answer on port 22\n" in done.stderr
    assert "host_lists/none.txt: not written, there is no host for it\n" in done.stderr
    assert not (project / "host_lists" / "none.txt").exists()


@pytest.mark.root
def test_no_route_is_said(inv: Inv, program: Callable[[str], str]) -> None:
    done = inv("discover", "--network", "10.200.0.0/30", inside=[program("unshare"), "--net"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "inv discover: no route to 10.200.0.0/30; is this machine connected to it?\n"


def nmaps_in(room: SilentNetwork) -> list[str]:
    pids = subprocess.run(["ip", "netns", "pids", room.scanner], capture_output=True, text=True, check=True)
    names = (Path(f"/proc/{pid}/comm") for pid in pids.stdout.split())
    return [name.read_text().strip() for name in names if name.exists() and name.read_text() == "nmap\n"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)],
    ids=["int", "term", "kill"],
)
def test_nmap_ends_with_us(project: Path, small: SilentNetwork, number: int, code: int) -> None:
    path = project / "host_lists" / "cut.txt"
    words = ["discover", "--network", "10.77.0.0/16", "--output", "cut", "--rate", "1000"]
    process = subprocess.Popen(
        small.argv(*INV, *words), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: nmaps_in(small), 20)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, stdout) == (code, "")
    if number == signal.SIGINT:
        assert stderr == "inv discover: interrupted\n"
    wait_until(lambda: not nmaps_in(small), 5)
    assert not path.exists()


@pytest.mark.root
def test_the_progress_bar_is_for_terminals(project: Path, small: SilentNetwork) -> None:
    ours, theirs = pty.openpty()
    argv = small.argv(*INV, "discover", "--network", str(SMALL), "--rate", "500", "--dns-timeout", "0")
    process = subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # the terminal's other end is closed: the process has ended
    finally:
        os.close(ours)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout.startswith("host ")
    assert b"scanning" in shown
    assert b"/512" in shown
    assert b"10 up" in shown
    assert b"512 addresses asked in" in shown.splitlines()[-1]


@pytest.fixture
def fake_nmap(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which nmap is this shell script."""

    def make(script: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "nmap").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nmap").chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return make


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Strange thing' >&2; echo QUITTING! >&2; exit 1", "Strange thing"),
        ("echo '<nmaprun><host>'; exit 0", "no element found"),
        ("echo hello", "syntax error"),
        ("kill -9 $$", "no element found"),
        ('echo \'<nmaprun><runstats><finished exit="error" errormsg="too bad"/></runstats></nmaprun>\'', "too bad"),
    ],
)
def test_nmap_that_fails_is_one_line(
    inv: Inv, fake_nmap: Callable[[str], dict[str, str]], script: str, message: str
) -> None:
    done = inv("discover", "--network", "127.0.0.0/30", env=fake_nmap(script))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"inv discover: nmap failed: .*({message}).*\n", done.stderr), done.stderr


def test_without_nmap_there_is_the_command_that_installs_it(inv: Inv, tmp_path: Path) -> None:
    done = inv("discover", "--network", "127.0.0.0/30", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "inv discover: nmap is not installed; install it with: sudo apt install nmap\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no network given; write for example: inv discover --network 10.0.0.0/24"),
        (("--network", "10.0.0.0/8"), "--network: 10.0.0.0/8 is large: 16,777,216 addresses, more than a /16"),
        (("--network", "10.0.0.0/24", "--from", "x"), "give --network or --from, not both"),
        (("--network", "10.0.0.0/24", "--prune"), "--prune needs a host list; give --output NAME"),
        (("--network", "10.0.0.0/24", "--port", "0"), "--port: bad port 0"),
        (("--network", "10.0.0.0/24", "--max-rtt-timeout", "60"), "--max-rtt-timeout: duration '60' has no unit"),
        (("--network", "10.0.0.0/24", "--output", "a b"), "bad host list name 'a b'"),
        (("--network", "10.0.0.0/24", "--output", "crlf"), "crlf.txt:1: the line ends with a carriage return"),
        (("--from", "none.xml"), "none.xml: cannot read the nmap report: No such file or directory"),
        (("--from", "tasks.py"), "tasks.py:1: not an nmap report"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_done(
    inv: Inv, project: Path, fake_nmap: Callable[[str], dict[str, str]], words: tuple[str, ...], message: str
) -> None:
    (project / "host_lists").mkdir()
    (project / "host_lists" / "crlf.txt").write_bytes(b"one.lab\r\n")
    done = inv("discover", *words, env=fake_nmap(f"touch {project}/ran"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("inv discover: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project / "ran").exists()


def test_a_saved_report_from_standard_input(project: Path) -> None:
    text = (
        "Nmap scan report for cumulus.enseeiht.fr (147.127.128.3)\nHost is up (0.046s latency).\n"
        "Nmap scan report for $(reboot) (147.127.128.4)\nHost is up (0.046s latency).\n"
        "Nmap done: 4096 IP addresses (221 hosts up) scanned in 9.79 seconds\n"
    )
    words = ["discover", "--from", "/dev/stdin", "--output", "n7", "--dns-timeout", "0"]
    done = subprocess.run([*INV, *words], cwd=project, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "report: 2 up, the report does not tell whether port 22 answers\n" in done.stderr
    assert (project / "host_lists" / "n7.txt").read_text().splitlines()[1:] == [
        "cumulus.enseeiht.fr",
        "147.127.128.4",
    ]


@pytest.mark.root
def test_the_lab_is_discovered_with_the_way_to_it_and_filtered_in_one_command(
    inv: Inv, project: Path, lab: LabFactory
) -> None:
    room = lab(count=4, off=("lab03",), refuse_key=("lab04",))
    done = inv(
        "discover", "--network", room.subnet, "--output", "all", "filter", "--hosts", "all", "--output", "mine"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hosts = {host.name: host for host in read_host_list(project / "host_lists" / "all.txt").hosts}
    assert set(hosts) == {room.host(name).full_name for name in ("lab01", "lab02", "lab04")}
    assert hosts[room.host("lab01").full_name].netns == room.netns
    mine = read_host_list(project / "host_lists" / "mine.txt").hosts
    assert [host.name for host in mine] == [room.host(name).full_name for name in ("lab01", "lab02")]
    assert "controller" in done.stdout
    assert "3 hosts: 2 ok, 0 failed, 1 unreachable\nreasons: 1 auth\n" in done.stderr


def test_a_rootless_lab_is_discovered_on_its_port(inv: Inv, project: Path, rootless_lab: Lab) -> None:
    settings_for(rootless_lab, project)
    first = rootless_lab.hosts[0].address
    words = ["--network", f"{first}/29", "--port", str(rootless_lab.port), "--output", "found", "--dns-timeout", "0"]
    done = inv("discover", *words)
    assert done.returncode == 0, done.stderr
    hosts = read_host_list(project / "host_lists" / "found.txt").hosts
    assert [host.attributes["address"] for host in hosts] == [host.address for host in rootless_lab.hosts]
    done = inv("filter", "--hosts", "found")
    assert "3 hosts: 3 ok" in done.stderr
