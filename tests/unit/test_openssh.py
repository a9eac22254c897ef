"""Command lines for the OpenSSH client, and the gateway in them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from roomful.errors import InputError
from roomful.hosts import Host
from roomful.openssh import gateway_of, rsync_ssh_options, ssh_argv
from roomful.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "host_lists").mkdir()
    return Settings(root=tmp_path, ssh_config="none", known_hosts=str(tmp_path / "known"), gateway="me@gate:2222")


def options_of(argv: list[str]) -> Mapping[str, str]:
    """Return the ``-o`` options of an ssh command line; the first one of a name counts, as in ssh."""
    words = [argv[i + 1] for i, word in enumerate(argv) if word == "-o"]
    return {word.split("=", 1)[0]: word.split("=", 1)[1] for word in reversed(words)}


def test_forwarding_of_agent_and_x11_is_off_and_host_keys_are_checked(settings: Settings) -> None:
    options = options_of(ssh_argv(Host("node"), settings.replace(gateway="")))
    wanted = {"ForwardAgent": "no", "ForwardX11": "no", "StrictHostKeyChecking": "yes", "BatchMode": "yes"}
    assert {key: options[key] for key in wanted} == wanted
    assert "ProxyCommand" not in options


def test_the_way_through_the_gateway_has_the_same_checks(settings: Settings) -> None:
    argv = ssh_argv(Host("node", port=22), settings, command=["true"])
    assert argv[-3:] == ["--", "node", "true"]
    proxy = shlex.split(options_of(argv)["ProxyCommand"])
    assert proxy[0] == "ssh"
    assert proxy[-4:] == ["-W", "[%h]:%p", "--", "gate"]
    assert proxy[proxy.index("-p") + 1] == "2222"
    assert proxy[proxy.index("-l") + 1] == "me"
    inner = options_of(proxy)
    for key in ("StrictHostKeyChecking", "BatchMode", "ForwardAgent", "ForwardX11", "UserKnownHostsFile"):
        assert inner[key] == options_of(argv)[key]


def test_the_gateway_itself_is_reached_directly(settings: Settings) -> None:
    assert gateway_of(Host("gate", port=2222), settings) is None
    assert "ProxyCommand" not in options_of(ssh_argv(Host("gate", port=2222), settings))
    assert gateway_of(Host("gate"), settings) is not None


def test_a_gateway_in_a_list_comes_with_its_attributes_and_another_looks_where_the_host_is(
    settings: Settings,
) -> None:
    lab = {"address": "10.0.0.9", "ssh_config": "/lab/ssh_config", "netns": "rf-lab"}
    (settings.root / "host_lists" / "mine.txt").write_text("front address=10.0.0.1\n")
    listed = gateway_of(Host("node", attributes=lab), settings.replace(gateway="front"))
    assert listed is not None
    assert dict(listed.attributes) == {"address": "10.0.0.1"}
    unlisted = gateway_of(Host("node", attributes=lab), settings)
    assert unlisted is not None
    assert dict(unlisted.attributes) == {"ssh_config": "/lab/ssh_config", "netns": "rf-lab"}


def test_several_gateways_are_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match="--gateway"):
        gateway_of(Host("node"), settings.replace(gateway="a,b"))


@pytest.mark.parametrize("folder", ["plain", "with space", "100%", "a$b`c"])
def test_a_path_survives_percent_signs_and_the_shell(settings: Settings, folder: str, tmp_path: Path) -> None:
    known = tmp_path / folder / "known"
    value = options_of(ssh_argv(Host("node"), settings.replace(known_hosts=str(known))))["ProxyCommand"]
    # What ssh makes of it before the shell reads it (ssh_config(5), TOKENS).
    seen = value.replace("%h", "node").replace("%p", "22").replace("%%", "%")
    assert options_of(shlex.split(seen))["UserKnownHostsFile"].strip('"') == str(known)


def test_rsync_can_go_through_the_gateway(settings: Settings) -> None:
    text = rsync_ssh_options(Host("node"), settings)
    assert "'" not in text
    # rsync splits at spaces, and takes '""' between double quotes as one of them.
    words = shlex.split(text.replace('""', '\\"'))
    assert options_of(words)["ProxyCommand"] == options_of(ssh_argv(Host("node"), settings))["ProxyCommand"]
