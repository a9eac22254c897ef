"""Where a host is reached: host list, ssh_config, settings and gateway put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.endpoint import endpoint_of
from roomful.errors import InputError
from roomful.hosts import Host, parse_host
from roomful.settings import Settings

CONFIG = """\
Host desk
    HostName desk-7.example.org
    User ada
    Port 2022
    IdentityFile /keys/desk
    HostKeyAlias the-desk
Host inner
    ProxyJump bob@front:2222
Host far
    ProxyJump one,two
Host own
    ProxyCommand nc -X 5 %h %p
Host *
    User everyone
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "config").write_text(CONFIG)
    return Settings(root=tmp_path, ssh_config="config", known_hosts="known")


def test_an_alias_brings_name_user_port_key_and_its_name_in_known_hosts(settings: Settings) -> None:
    found = endpoint_of(Host("desk"), settings)
    assert (found.host, found.user, found.port) == ("desk-7.example.org", "ada", 2022)
    assert (found.identity_files, found.key_name) == ((Path("/keys/desk"),), "the-desk")
    assert found.address.proxy == ()


def test_the_host_list_goes_before_ssh_config(settings: Settings) -> None:
    found = endpoint_of(parse_host("eve@desk:22"), settings)
    assert (found.host, found.user, found.port) == ("desk-7.example.org", "eve", 22)
    assert endpoint_of(Host("desk", attributes={"address": "10.0.0.7"}), settings).host == "10.0.0.7"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        pytest.param("inner", ["-W", "inner:22", "--", "front"], id="one jump"),
        pytest.param("far", ["-W", "far:22", "-J", "one", "--", "two"], id="two jumps"),
    ],
)
def test_proxy_jump_goes_through_openssh(settings: Settings, name: str, end: list[str]) -> None:
    proxy = list(endpoint_of(Host(name), settings).address.proxy)
    assert proxy[0] == "ssh"
    assert proxy[-len(end) :] == end


def test_proxy_command_is_run_by_a_shell(settings: Settings) -> None:
    assert endpoint_of(Host("own"), settings).address.proxy == ("sh", "-c", "exec nc -X 5 own 22")


def test_the_gateway_goes_before_proxy_jump(settings: Settings) -> None:
    (settings.root / "host_lists").mkdir()
    through = settings.replace(gateway="gate")
    proxy = endpoint_of(Host("inner"), through).address.proxy
    assert proxy[-4:] == ("-W", "[inner]:22", "--", "gate")
    assert endpoint_of(Host("gate"), through).address.proxy == ()


def test_included_files_count(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".ssh" / "config.d").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / ".ssh" / "config.d" / "lab").write_text("Host bench\n  User carl")
    (home / ".ssh" / "config.d" / "other").write_text("Host shelf\n  User dora\n")
    (tmp_path / "own").write_text("Include config.d/*\nInclude=/nowhere/*\nHost *\n  Port 99\n")
    changed = settings.replace(ssh_config="own")
    found = [endpoint_of(Host(name), changed) for name in ("bench", "shelf")]
    assert [(one.user, one.port) for one in found] == [("carl", 99), ("dora", 99)]


def test_a_file_that_includes_itself_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "loop").write_text(f"Include {tmp_path}/loop\n")
    with pytest.raises(InputError, match="nested"):
        endpoint_of(Host("x"), settings.replace(ssh_config="loop"))


def test_a_port_that_is_none_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("Host x\n  Port ssh\n")
    with pytest.raises(InputError, match="ssh_config of x: Port ssh: not a port"):
        endpoint_of(Host("x"), settings.replace(ssh_config="odd"))
