"""known_hosts: the verdicts, for every way in which a line can name a host."""

from __future__ import annotations

import base64
import hmac
import time
from pathlib import Path

import pytest

from roomful.known_hosts import KnownHosts, Verdict, fingerprint, host_pattern

KEY = b"\0\0\0\x0bssh-ed25519 the key"
OTHER = b"\0\0\0\x0bssh-ed25519 another key"
TYPE = "ssh-ed25519"


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def hashed(name: str, salt: bytes = b"12345678901234567890") -> str:
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def verdict(tmp_path: Path, content: str, name: str = "n1", key: bytes = KEY, key_type: str = TYPE) -> Verdict:
    path = tmp_path / "known_hosts"
    path.write_text(content)
    return KnownHosts([path]).check(name, key_type, key)[0]


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        pytest.param(f"n1 {TYPE} {text(KEY)}", "n1", Verdict.KNOWN, id="plain"),
        pytest.param(f"N1 {TYPE} {text(KEY)}", "n1", Verdict.KNOWN, id="upper-case"),
        pytest.param(f"n0,n1,n2 {TYPE} {text(KEY)}", "n1", Verdict.KNOWN, id="several"),
        pytest.param(f"[n1]:2222 {TYPE} {text(KEY)}", "[n1]:2222", Verdict.KNOWN, id="port"),
        pytest.param(f"n1 {TYPE} {text(KEY)}", "[n1]:2222", Verdict.UNKNOWN, id="other-port"),
        pytest.param(f"*.lab.org {TYPE} {text(KEY)}", "n1.lab.org", Verdict.KNOWN, id="wildcard"),
        pytest.param(f"*.lab.org,!n1.lab.org {TYPE} {text(KEY)}", "n1.lab.org", Verdict.UNKNOWN, id="negated"),
        pytest.param(f"{hashed('n1')} {TYPE} {text(KEY)}", "n1", Verdict.KNOWN, id="hashed"),
        pytest.param(f"{hashed('n2')} {TYPE} {text(KEY)}", "n1", Verdict.UNKNOWN, id="hashed-other"),
        pytest.param(f"n1 {TYPE} {text(OTHER)}", "n1", Verdict.CHANGED, id="changed"),
        pytest.param(f"{hashed('n1')} {TYPE} {text(OTHER)}", "n1", Verdict.CHANGED, id="hashed-changed"),
        pytest.param(f"n1 ssh-rsa {text(OTHER)}", "n1", Verdict.OTHER_TYPE, id="other-type"),
        pytest.param(f"@revoked * {TYPE} {text(KEY)}", "n1", Verdict.REVOKED, id="revoked"),
        pytest.param(f"@cert-authority * {TYPE} {text(KEY)}", "n1", Verdict.UNKNOWN, id="no-certificates"),
        pytest.param(f"# n1 {TYPE} {text(KEY)}", "n1", Verdict.UNKNOWN, id="comment"),
        pytest.param("n1 broken\n|1|x n1 y", "n1", Verdict.UNKNOWN, id="broken-lines"),
        pytest.param("", "n1", Verdict.UNKNOWN, id="empty"),
    ],
)
def test_verdicts(tmp_path: Path, line: str, name: str, expected: Verdict) -> None:
    assert verdict(tmp_path, line, name) is expected


def test_a_revoked_key_is_refused_even_where_another_line_knows_it(tmp_path: Path) -> None:
    content = f"n1 {TYPE} {text(KEY)}\n@revoked * {TYPE} {text(KEY)}\n"
    assert verdict(tmp_path, content) is Verdict.REVOKED


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert KnownHosts([tmp_path / "none"]).check("n1", TYPE, KEY)[0] is Verdict.UNKNOWN


def test_remembered_keys_are_known_here_and_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    known = KnownHosts([path])
    known.remember("[n1]:2222", TYPE, KEY)
    assert known.check("[n1]:2222", TYPE, KEY)[0] is Verdict.KNOWN
    assert KnownHosts([path]).check("[n1]:2222", TYPE, KEY)[0] is Verdict.KNOWN


def test_remember_keeps_a_last_line_without_newline_whole(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"n0 {TYPE} {text(OTHER)}")
    KnownHosts([path]).remember("n1", TYPE, KEY)
    assert KnownHosts([path]).check("n0", TYPE, OTHER)[0] is Verdict.KNOWN
    assert KnownHosts([path]).check("n1", TYPE, KEY)[0] is Verdict.KNOWN


def test_types_of_a_host(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"n1 ssh-rsa {text(OTHER)}\n{hashed('n1')} {TYPE} {text(KEY)}\n")
    assert KnownHosts([path]).types_of("n1") == ("ssh-rsa", TYPE)


def test_five_thousand_hashed_entries_cost_a_group_little(tmp_path: Path) -> None:
    """The trap that this module exists for: 256 hosts with 1,000 hashed entries took Paramiko 41 s."""
    names = [f"n{i}" for i in range(5000)]
    keys = {name: b"\0\0\0\x0bssh-ed25519" + name.encode() for name in names}
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{hashed(name)} {TYPE} {text(keys[name])}\n" for name in names))
    start = time.process_time()
    known = KnownHosts([path])
    assert all(known.check(name, TYPE, keys[name])[0] is Verdict.KNOWN for name in names[-256:])
    assert time.process_time() - start < 0.3


def test_names_and_fingerprints() -> None:
    assert host_pattern("N1", 22) == "n1"
    assert host_pattern("n1", 2222) == "[n1]:2222"
    # What `ssh-keygen -lf` prints for this key line.
    key = base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")
    assert fingerprint(key) == "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
