"""The SSH files of a lab, as text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from roomful.lab import sshd
from tests.unit.test_lab_model import make_lab


def test_the_client_reads_nothing_of_the_users() -> None:
    text = sshd.client_config(make_lab())
    assert "IdentityFile /run/roomful-labs/demo/id_ed25519\n" in text
    assert "UserKnownHostsFile /run/roomful-labs/demo/known_hosts\n" in text
    for line in (
        "IdentitiesOnly yes",
        "IdentityAgent none",
        "GlobalKnownHostsFile none",
        "StrictHostKeyChecking yes",
    ):
        assert f"    {line}\n" in text
    assert "~" not in text


def test_the_client_knows_a_host_by_each_of_its_names() -> None:
    text = sshd.client_config(make_lab())
    assert "Host lab02 lab02.demo.test 10.83.7.2\n    HostName 10.83.7.2\n" in text


def test_known_hosts_name_the_port_where_it_is_not_22(tmp_path: Path) -> None:
    key = tmp_path / "hosts" / "lab01" / "etc" / sshd.HOST_KEY
    key.parent.mkdir(parents=True)
    Path(f"{key}.pub").write_text("ssh-ed25519 AAAA roomful lab etc\n")
    for port, names in (
        (22, "lab01,lab01.demo.test,10.83.7.1"),
        (2222, "[lab01]:2222,[lab01.demo.test]:2222,[10.83.7.1]:2222"),
    ):
        lab = dataclasses.replace(make_lab(port=port), directory=tmp_path)
        assert sshd.known_hosts_lines(lab, lab.hosts[:1]) == f"{names} ssh-ed25519 AAAA\n"


def test_both_kinds_forward_sockets_and_take_keys_only() -> None:
    lab = make_lab()
    for text in (sshd.namespace_config(lab), sshd.rootless_config(lab, lab.hosts[0])):
        lines = text.splitlines()
        for line in (
            "AllowStreamLocalForwarding yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "MaxStartups 500:30:1000",
        ):
            assert line in lines


def test_a_rootless_host_runs_nothing_of_the_users() -> None:
    lab = make_lab(rootless=True)
    lines = sshd.rootless_config(lab, lab.hosts[0]).splitlines()
    assert "PermitUserRC no" in lines
    assert (
        "SetEnv HOME=/run/roomful-labs/demo/hosts/lab01/etc ROOMFUL_LAB_HOST=/run/roomful-labs/demo/hosts/lab01"
        in lines
    )
    assert "AuthorizedKeysFile /run/roomful-labs/demo/hosts/lab01/etc/authorized_keys" in lines
