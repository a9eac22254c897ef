"""The account files of a lab host."""

from __future__ import annotations

from roomful.lab import accounts
from tests.unit.test_lab_model import make_lab

SYSTEM_PASSWD = """\
root:x:0:0:root:/root:/usr/bin/fish
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
ada:x:1000:1000:Ada:/home/ada:/bin/bash
sshd:x:102:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
+nis-entry
"""
SYSTEM_GROUP = "root:x:0:\nsudo:x:27:ada\nada:x:1000:\nnogroup:x:65534:\n"


def test_a_host_has_the_systems_accounts_and_one_student() -> None:
    lines = accounts.passwd(SYSTEM_PASSWD).splitlines()
    assert [line.split(":")[0] for line in lines] == ["root", "daemon", "sshd", "nobody", "student"]
    assert lines[0] == "root:x:0:0:root:/root:/bin/bash"
    assert lines[-1] == "student:x:20001:20001:Student:/home/student:/bin/bash"


def test_nobody_keeps_the_groups_of_this_machine() -> None:
    assert accounts.group(SYSTEM_GROUP) == "root:x:0:\nsudo:x:27:\nnogroup:x:65534:\nstudent:x:20001:\n"


def test_no_account_has_a_password_and_none_is_locked() -> None:
    passwd = accounts.passwd(SYSTEM_PASSWD)
    shadow = [line.split(":") for line in accounts.shadow(passwd).splitlines()]
    assert [fields[0] for fields in shadow] == [line.split(":")[0] for line in passwd.splitlines()]
    assert {fields[1] for fields in shadow} == {"*"}
    assert {len(fields) for fields in shadow} == {9}


def test_a_password_is_the_students_alone() -> None:
    lines = accounts.shadow(accounts.passwd(SYSTEM_PASSWD), "sesame").splitlines()
    fields = {line.split(":")[0]: line.split(":")[1] for line in lines}
    assert fields.pop("student").startswith("$6$")
    assert set(fields.values()) == {"*"}


def test_every_host_knows_every_name() -> None:
    lines = accounts.hosts(make_lab()).splitlines()
    assert "10.83.7.2 lab02.demo.test lab02" in lines
    assert "10.83.7.254 controller.demo.test controller" in lines


def test_machine_ids_differ_and_stay() -> None:
    hosts = make_lab().hosts
    ids = [accounts.machine_id(host) for host in hosts]
    assert len(set(ids)) == 3
    assert all(len(text) == 33 and int(text, 16) for text in ids)
    assert ids == [accounts.machine_id(host) for host in hosts]
