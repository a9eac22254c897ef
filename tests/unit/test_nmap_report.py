"""Nmap's reports in their three forms, whole, cut off, damaged and hostile."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from roomful.errors import InputError
from roomful.nmap_report import NmapError, UpHost, XmlReader, read_report

#: As the toolbox's README shows it, the dots too.
SEED = """\
Starting Nmap 7.12 ( https://nmap.org ) at 2016-09-05 22:17 CEST
Nmap scan report for cumulus.enseeiht.fr (147.127.128.3)
Host is up (0.046s latency).
Nmap scan report for stratus.enseeiht.fr (147.127.128.4)
Host is up (0.046s latency).
...
Nmap done: 4096 IP addresses (221 hosts up) scanned in 9.79 seconds
"""
NORMAL = """\
# Nmap 7.93 scan initiated Sat Nov 21 06:31:49 2026 as: nmap -p22,80 -oN out 10.77.0.0/24
Nmap scan report for a.lab.org (10.77.0.9)
Host is up (0.000040s latency).

PORT   STATE  SERVICE
22/tcp open   ssh
80/tcp closed http

Nmap scan report for 10.77.0.38
Host is up, received echo-reply ttl 63 (0.00012s latency).

PORT   STATE    SERVICE REASON
22/tcp filtered ssh     no-response
80/tcp open     http    syn-ack ttl 63

Nmap scan report for 10.77.0.39 [host down, received no-response]
Nmap scan report for 10.77.0.40
Host seems down.
Nmap scan report for 10.77.0.41
Host is up (0.00012s latency).
Not shown: 1 filtered tcp port (no-response)
PORT   STATE  SERVICE
22/tcp closed ssh

# Nmap done at Sat Nov 21 06:31:51 2026 -- 256 IP addresses (3 hosts up) scanned in 1.61 seconds
"""
GREPABLE = """\
# Nmap 7.93 scan initiated Sat Nov 21 06:31:49 2026 as: nmap -p22,80 -oG out 10.77.0.0/24
Host: 10.77.0.9 (a.lab.org)\tStatus: Up
Host: 10.77.0.9 (a.lab.org)\tPorts: 80/closed/tcp//http///, 22/open/tcp//ssh///
Host: 10.77.0.38 ()\tStatus: Up
Host: 10.77.0.38 ()\tPorts: 22/filtered/tcp//ssh///\tIgnored State: closed (1)
Host: 10.77.0.39 ()\tStatus: Down
Host: 10.77.0.41 ()\tPorts: 22/closed/tcp//ssh///, 2222/open/tcp/////
# Nmap done at Sat Nov 21 06:31:51 2026 -- 256 IP addresses (3 hosts up) scanned in 1.61 seconds
"""
XML = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nmaprun>
<?xml-stylesheet href="file:///usr/share/nmap/nmap.xsl" type="text/xsl"?>
<!-- Nmap 7.93 scan initiated -->
<nmaprun scanner="nmap" args="nmap -p22,80 -oX - 10.77.0.0/24" version="7.93" xmloutputversion="1.05">
<taskprogress task="Ping Scan" time="1795242469" percent="46.02" remaining="2" etc="1795242470"/>
<hosthint><status state="up" reason="arp-response" reason_ttl="0"/>
<address addr="10.77.0.99" addrtype="ipv4"/><hostnames></hostnames></hosthint>
<host><status state="up" reason="syn-ack" reason_ttl="63"/>
<address addr="10.77.0.9" addrtype="ipv4"/>
<address addr="02:42:AC:11:00:02" addrtype="mac" vendor="x"/>
<hostnames><hostname name="given.by.user" type="user"/><hostname name="A.Lab.org." type="PTR"/></hostnames>
<ports><port protocol="udp" portid="22"><state state="closed" reason="x"/></port>
<port protocol="tcp" portid="80"><state state="closed" reason="reset"/></port>
<port protocol="tcp" portid="22"><state state="open" reason="syn-ack"/>
<service name="ssh"/><script id="s" output="o"><table><elem key="state">closed</elem></table></script></port>
</ports></host>
<host><status state="up" reason="echo-reply" reason_ttl="63"/><address addr="10.77.0.38" addrtype="ipv4"/>
<ports><port protocol="tcp" portid="22"><state state="filtered" reason="no-response"/></port></ports></host>
<host><status state="down" reason="no-response" reason_ttl="0"/><address addr="10.77.0.39" addrtype="ipv4"/></host>
<host><status state="up" reason="reset" reason_ttl="63"/><address addr="10.77.0.41" addrtype="ipv4"/>
<ports><port protocol="tcp" portid="22"><state state="closed" reason="reset"/></port></ports></host>
<runstats><finished time="1" elapsed="1.61" exit="success"/><hosts up="3" down="253" total="256"/></runstats>
</nmaprun>
"""
#: The same scan in the three forms (only XML has the reason for which a host is up).
EXPECTED = [
    ("10.77.0.9", "a.lab.org", "open"),
    ("10.77.0.38", "", "filtered"),
    ("10.77.0.41", "", "closed"),
]


def report(folder: Path, text: str | bytes, name: str = "report") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def found(hosts: tuple[UpHost, ...]) -> list[tuple[str, str, str]]:
    return [(host.address, host.name, host.port_state) for host in hosts]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(XML, id="xml"),
        pytest.param(XML.partition("\n")[2], id="xml-without-declaration"),
        pytest.param(GREPABLE, id="grepable"),
        pytest.param(NORMAL, id="normal"),
        pytest.param(GREPABLE.replace("\n", "\r\n"), id="grepable-crlf"),
        pytest.param(NORMAL.replace("\n", "\r\n"), id="normal-crlf"),
        pytest.param(f"\ufeff\n{XML.partition(chr(10))[2]}", id="xml-after-a-byte-order-mark"),
        pytest.param(f"$ nmap -p22,80 10.77.0.0/24\n\n{NORMAL}$ \n", id="normal-as-a-terminal-shows-it"),
    ],
)
def test_the_three_forms_say_the_same(tmp_path: Path, text: str) -> None:
    assert found(read_report(report(tmp_path, text))) == EXPECTED


def test_the_report_that_the_toolbox_shows(tmp_path: Path) -> None:
    assert found(read_report(report(tmp_path, SEED))) == [
        ("147.127.128.3", "cumulus.enseeiht.fr", "unknown"),
        ("147.127.128.4", "stratus.enseeiht.fr", "unknown"),
    ]


@pytest.mark.parametrize("text", [XML, GREPABLE, NORMAL], ids=["xml", "grepable", "normal"])
def test_only_the_port_that_was_asked_for_counts(tmp_path: Path, text: str) -> None:
    assert read_report(report(tmp_path, text), port=80)[0].port_state == "closed"
    assert read_report(report(tmp_path, text), port=8)[0].port_state == "unknown"
    assert read_report(report(tmp_path, text), port=2222)[-1].port_state == (
        "open" if text is GREPABLE else "unknown"
    )


NOTHING_NORMAL = """\
Starting Nmap 7.93 ( https://nmap.org ) at 2026-11-21 06:28 UTC
Nmap done: 4 IP addresses (0 hosts up) scanned in 5.07 seconds
"""
NOTHING_GREPABLE = """\
# Nmap 7.93 scan initiated Sat Nov 21 06:31:49 2026 as: nmap -oG - 10.0.0.0/30
# Nmap done at Sat Nov 21 06:31:51 2026 -- 4 IP addresses (0 hosts up) scanned in 1.61 seconds
"""
NOTHING_XML = "<nmaprun><runstats><finished exit='success'/><hosts up='0' total='4'/></runstats></nmaprun>"


@pytest.mark.parametrize("text", [NOTHING_NORMAL, NOTHING_GREPABLE, NOTHING_XML], ids=["normal", "grepable", "xml"])
def test_a_scan_that_found_nothing_is_a_report_without_hosts(tmp_path: Path, text: str) -> None:
    assert read_report(report(tmp_path, text)) == ()


GAVE_UP = 'exit="error" errormsg="oh no"'


def cut(text: str, before: str) -> str:
    return text[: text.index(before)]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        pytest.param("", 1, "not an nmap report", id="empty"),
        pytest.param("hello\n", 1, "not an nmap report", id="something-else"),
        pytest.param("\0\xff\x7fELF" * 50, 1, "not an nmap report", id="binary"),
        pytest.param(cut(XML, "<runstats>"), 23, "no element found", id="xml-cut-off"),
        pytest.param(XML[:1200], 18, "unclosed token", id="xml-cut-inside-a-tag"),
        pytest.param(cut(XML, "<host>"), 9, "no element found", id="xml-cut-before-the-first-host"),
        pytest.param(XML.replace("10.77.0.38", "10.77.0.380"), 19, "bad address '10.77.0.380'", id="xml-address"),
        pytest.param(XML.replace('addr="10.77.0.9"', ""), 17, "bad address ''", id="xml-no-address"),
        pytest.param("<html><body/></html>", 1, "starts with <html>", id="another-xml"),
        pytest.param(XML.replace('exit="success"', GAVE_UP), 24, "gave up: oh no", id="xml-error"),
        pytest.param(cut(GREPABLE, "# Nmap done"), 8, "before nmap's last line", id="grepable-cut-off"),
        pytest.param(cut(GREPABLE, "8 ()\tStatus"), 4, "not of the form 'Host: ", id="grepable-cut-in-a-line"),
        pytest.param(GREPABLE.replace("10.77.0.38 ", "10.77.0.x "), 4, "not of the form", id="grepable-address"),
        pytest.param(GREPABLE.replace("Host: 10.77.0.41", "Hots: 1"), 7, "not of the form", id="grepable-line"),
        pytest.param(cut(NORMAL, "# Nmap done"), 25, "before nmap's last line", id="normal-cut-off"),
        pytest.param(cut(NORMAL, ".38"), 9, "before nmap's last line|not of the form", id="normal-cut-in-an-address"),
        pytest.param(NORMAL.replace("for 10.77.0.38", "for kenobi"), 9, "not of the form", id="normal-no-address"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_refused_with_file_and_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    path = report(tmp_path, text)
    with pytest.raises(InputError, match=why) as caught:
        read_report(path)
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.exit_code == 2


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the nmap report: No such file"):
        read_report(tmp_path / "none.xml")
    with pytest.raises(InputError, match="cannot read the nmap report: Is a directory"):
        read_report(tmp_path)


def test_entities_are_refused(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">\n' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?>\n<!DOCTYPE nmaprun [<!ENTITY l0 "ha">\n{laughs}]>\n<nmaprun args="&l9;"/>'
    outside = '<!DOCTYPE nmaprun [<!ENTITY x SYSTEM "file:///etc/passwd">]><nmaprun>&x;</nmaprun>'
    for text in (bomb, outside):
        with pytest.raises(InputError, match="declares entities"):
            read_report(report(tmp_path, text))


HOSTILE = [
    "$(reboot)",
    "a;reboot",
    "-oProxyCommand=reboot",
    "a b",
    "..",
    "x/../../etc/passwd",
    "a\tb",
    "user@host",
    "node[1-9999999]",
    "\x1b]0;pwned\x07",
    "127.1",
    "0x7f000001",
    "2130706433",
    "10.0.0.99",
    "::1",
    "evil.example (10.9.9.9)",
    "a" * 64 + ".org",
    ".".join(["a" * 60] * 5),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_host_name_is_dropped_and_the_address_stays(tmp_path: Path, name: str) -> None:
    quoted = (
        name.replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("\x1b", "?")
        .replace("\x07", "?")
        .replace("\t", "&#9;")
    )
    texts = [
        NORMAL.replace("a.lab.org", name),
        GREPABLE.replace("a.lab.org", name.replace("\t", "?")),
        XML.replace("A.Lab.org.", quoted),
    ]
    for text in texts:
        assert found(read_report(report(tmp_path, text)))[0] == ("10.77.0.9", "", "open")


def read_in_pieces(data: bytes, sizes: list[int]) -> list[UpHost]:
    hosts: list[UpHost] = []
    reader = XmlReader(22, hosts.append)
    at = 0
    for size in sizes:
        reader.feed(data[at : at + size])
        at += size
    reader.feed(data[at:])
    reader.close()
    return hosts


@hypothesis.given(st.lists(st.integers(1, 400), max_size=20))
def test_xml_may_come_in_any_pieces(sizes: list[int]) -> None:
    assert found(tuple(read_in_pieces(XML.encode(), sizes))) == EXPECTED


def test_xml_says_how_far_it_is_and_how_many_were_asked() -> None:
    percents: list[float] = []
    reader = XmlReader(22, lambda host: None, percents.append)
    reader.feed(XML.encode(), final=True)
    assert (percents, reader.asked, reader.error) == ([46.02], 256, "")


def test_xml_that_ends_early_is_an_error_only_at_its_end() -> None:
    hosts: list[UpHost] = []
    reader = XmlReader(22, hosts.append)
    reader.feed(cut(XML, "<runstats>").encode())
    assert [host.reason for host in hosts] == ["syn-ack", "echo-reply", "reset"]
    with pytest.raises(NmapError, match="no element found"):
        reader.close()


@hypothesis.given(
    st.sampled_from([XML, GREPABLE, NORMAL, SEED]), st.integers(0, 2500), st.binary(max_size=20), st.integers(0, 20)
)
def test_any_damage_is_either_harmless_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, at: int, junk: bytes, gone: int
) -> None:
    data = text.encode()
    path = report(tmp_path_factory.getbasetemp(), data[:at] + junk + data[at + gone :], "damaged")
    hosts: tuple[UpHost, ...] = ()
    where = str(path)
    try:
        hosts = read_report(path)
    except InputError as error:
        where = error.where
    assert where.startswith(str(path))
    assert all(host.port_state in ("open", "closed", "filtered", "unknown") for host in hosts)
