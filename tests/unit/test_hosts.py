"""Host lists and host specifications: what is read, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.errors import HostListError, InputError, RoomfulError
from roomful.hosts import (
    Host,
    format_host,
    is_host_name,
    parse_host,
    parse_line,
    read_host_list,
    resolve,
    write_host_list,
)
from roomful.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "host_lists"
    folder.mkdir()
    (folder / "n7.txt").write_text("# the lab\nvador 1.0 2.0 gpu=yes  # dark side\nkenobi\n\nuser@yoda:2222\n")
    (folder / "lab.txt").write_text("".join(f"lab{i:02} address=10.83.1.{i} netns=rf\n" for i in range(1, 9)))
    return Settings(root=tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("n1", ("n1", None, None), id="name"),
        pytest.param("me@n1.lab.org", ("n1.lab.org", "me", None), id="user"),
        pytest.param("me@n1:2222", ("n1", "me", 2222), id="user-port"),
        pytest.param("10.0.0.7:22", ("10.0.0.7", None, 22), id="ipv4-port"),
        pytest.param("::1", ("::1", None, None), id="ipv6"),
        pytest.param("root@[fe80::1]:22", ("fe80::1", "root", 22), id="ipv6-port"),
        pytest.param("a@corp@n1", ("n1", "a@corp", None), id="user-with-at"),
    ],
)
def test_parse_host(text: str, expected: tuple[str, str | None, int | None]) -> None:
    host = parse_host(text)
    assert (host.name, host.user, host.port) == expected
    assert host.label == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-oProxyCommand=x", "starts with '-'"),
        ("n1:0", "bad port '0'"),
        ("n1:65536", "bad port '65536'"),
        ("n1:", "bad port ''"),
        ("n1:22x", "bad port '22x'"),
        ("a b", "bad host name 'a b'"),
        ("$(reboot)", "bad host name"),
        ("", "bad host name ''"),
        ("-x@n1", "bad user name"),
        ("n1..lab", "bad host name"),
        ("ño", "bad host name"),
        ("x" * 64, "bad host name"),
    ],
)
def test_parse_host_refuses(text: str, said: str) -> None:
    with pytest.raises(HostListError, match="bad") as caught:
        parse_host(text, "list.txt:3")
    assert said in str(caught.value)
    assert str(caught.value).startswith("list.txt:3: ")
    assert caught.value.exit_code == 2


def test_a_line_carries_weights_and_attributes() -> None:
    host = parse_line("galileo.foo.bar 2.0 0.5 gpu=a100 rack=3 # fast", "x:1")
    assert host is not None
    assert (host.load_weight, host.memory_weight) == (2.0, 0.5)
    assert dict(host.attributes) == {"gpu": "a100", "rack": "3"}
    assert format_host(host) == "galileo.foo.bar 2 0.5 gpu=a100 rack=3"


@pytest.mark.parametrize("text", ["", "   ", "# only a comment", "\t# x"])
def test_lines_without_a_host(text: str) -> None:
    assert parse_line(text, "x:1") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n1\r", "carriage return"),
        ("n1 0", "bad weight '0'"),
        ("n1 -1", "bad weight"),
        ("n1 nan", "bad weight"),
        ("n1 inf", "bad weight"),
        ("n1 fast", "bad weight 'fast'"),
        ("n1 1 2 3", "unexpected '3'"),
        ("n1 gpu=1 2", "unexpected '2'"),
        ("n1 gpu=1 gpu=2", "given twice"),
        ("n1 9x=1", "bad attribute"),
        ("n1 address=-x", "bad address"),
    ],
)
def test_lines_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(HostListError) as caught:
        parse_line(text, "lists/n7.txt:9")
    assert said in str(caught.value)
    assert "lists/n7.txt:9" in str(caught.value)


def test_a_list_keeps_its_comments_when_hosts_are_dropped(settings: Settings) -> None:
    hosts = read_host_list(settings.root / "host_lists" / "n7.txt")
    assert [host.label for host in hosts.hosts] == ["vador", "kenobi", "user@yoda:2222"]
    assert hosts.text_with(lambda host: host.name == "vador") == ("# the lab\nvador 1.0 2.0 gpu=yes  # dark side\n\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"# nothing\n\n", "empty"),
        (b"n1\nn2\nn1\n", ":3: host 'n1' twice: it is on line 1 already"),
        (b"n1\r\nn2\r\n", ":1: the line ends with a carriage return"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(HostListError) as caught:
        read_host_list(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostListError, match="No such file"):
        read_host_list(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("spec", "exclude", "labels"),
    [
        pytest.param("n7", "", "vador kenobi user@yoda:2222", id="list"),
        pytest.param("n7,other.org", "", "vador kenobi user@yoda:2222 other.org", id="list-and-host"),
        pytest.param("lab[01-03]", "", "lab01 lab02 lab03", id="range"),
        pytest.param("me@node[08-10]:2222", "", "me@node08:2222 me@node09:2222 me@node10:2222", id="full-range"),
        pytest.param("lab[1,3]x.org", "", "lab1x.org lab3x.org", id="range-with-comma"),
        pytest.param("lab", "lab[02-08]", "lab01", id="exclude"),
        pytest.param("lab,lab02", "lab[01-07]", "lab08", id="each-once"),
        pytest.param("[::1]:22", "", "[::1]:22", id="ipv6-is-no-range"),
    ],
)
def test_resolve(settings: Settings, spec: str, exclude: str, labels: str) -> None:
    assert [host.label for host in resolve(spec, settings, exclude)] == labels.split()


def test_a_host_of_a_list_brings_its_attributes(settings: Settings) -> None:
    (host,) = resolve("lab03", settings)
    assert host.attributes["address"] == "10.83.1.3"
    assert host.netns == "rf"


def test_the_default_is_a_setting(settings: Settings) -> None:
    assert len(resolve("", settings.replace(hosts="n7"))) == 3


@pytest.mark.parametrize(
    ("spec", "exclude", "said"),
    [
        ("", "", "no hosts given; give --hosts NAME (lists here: lab, n7)"),
        ("n77", "", "no host list 'n77'; did you mean n7?"),
        ("labb", "", "did you mean lab?"),
        ("n7,,lab", "", "an empty word"),
        ("n7", "n7", "leaves no host"),
        ("node[1-", "", "bad"),
        ("node[1-2000000]", "", "2,000,000 hosts"),
        ("-rf", "", "starts with '-'"),
        ("nothere/x.txt", "", "cannot read"),
    ],
)
def test_resolve_refuses(settings: Settings, spec: str, exclude: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(spec, settings, exclude)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_broken_list_does_not_stop_work_with_another(settings: Settings) -> None:
    (settings.root / "host_lists" / "broken.txt").write_text("a\na\n")
    assert resolve("lab01", settings)[0].netns == "rf"


def test_written_lists_read_back(tmp_path: Path) -> None:
    hosts = (Host("a"), Host("b", "me", 2222, 2.0, 1.0, {"gpu": "1"}))
    write_host_list(tmp_path / "new" / "x.txt", hosts, ["made by a test"])
    assert read_host_list(tmp_path / "new" / "x.txt").hosts == hosts
    assert (tmp_path / "new" / "x.txt").read_text().startswith("# made by a test\n")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a.b-c_d", True),
        ("1.2.3.4", True),
        ("a;b", False),
        ("a\nb", False),
        ("-oProxyCommand=reboot", False),
        ("-v", False),
        ("fe80::1%eth0", True),
        ("fe80::1%$(reboot)", False),
        ("fe80::1%;reboot", False),
        ("fe80::1%", False),
        ("1.2.3.4%eth0", False),
    ],
)
def test_is_host_name(name: str, good: bool) -> None:
    assert is_host_name(name) is good


def test_a_list_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt" / "in").mkdir(parents=True)
    for path, why in (
        (tmp_path / "file" / "in" / "x.txt", "Not a directory"),
        (tmp_path / "folder.txt", "Is a directory"),
    ):
        with pytest.raises(RoomfulError) as caught:
            write_host_list(path, [Host("n1")])
        assert str(caught.value) == f"{path}: cannot write this file: {why}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.txt"]


def test_a_byte_order_mark_of_windows_programs_is_no_part_of_the_first_host(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfn1 2.0\nn2\n")
    found = read_host_list(tmp_path / "list.txt")
    assert [host.name for host in found.hosts] == ["n1", "n2"]
