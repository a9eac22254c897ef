"""What a lab may be, and the names and addresses that follow from it."""

from __future__ import annotations

import ipaddress
import itertools
import json
from pathlib import Path

import pytest

from roomful.errors import InputError
from roomful.hosts import format_host, parse_line
from roomful.lab.model import (
    Lab,
    LabOptions,
    candidate_subnets,
    host_entry,
    host_names,
    make_hosts,
    netns_name,
)

ROOT, STUDENT = 0, 20001


def make_lab(count: int = 3, rootless: bool = False, subnet: str = "10.83.7.0/24", port: int = 22) -> Lab:
    options = LabOptions(count=count, name="demo", rootless=rootless, user="student")
    return Lab(options, Path("/run/roomful-labs/demo"), subnet, port, make_hosts(options, subnet))


def test_root_gets_namespaces_and_logs_in_as_the_student() -> None:
    options = LabOptions().checked(ROOT, "root")
    assert (options.rootless, options.user) == (False, "student")


def test_everybody_else_gets_user_mode_servers_and_logs_in_as_oneself() -> None:
    options = LabOptions().checked(STUDENT, "ada")
    assert (options.rootless, options.user) == (True, "ada")


@pytest.mark.parametrize(
    ("changes", "uid", "said"),
    [
        ({"count": 0}, ROOT, "--count"),
        ({"count": 501}, ROOT, "--count"),
        ({"name": ""}, ROOT, "--name"),
        ({"name": "../etc"}, ROOT, "--name"),
        ({"name": "Lab"}, ROOT, "--name"),
        ({"name": "x" * 33}, ROOT, "--name"),
        ({"name": "a-"}, ROOT, "--name"),
        ({"rootless": False}, STUDENT, "need root"),
        ({"off": ("lab05",)}, ROOT, "--off: there is no host 'lab05'"),
        ({"refuse_key": ("nobody",)}, ROOT, "--refuse-key: there is no host 'nobody'"),
        ({"cpus": 0.5}, STUDENT, "--cpus: needs namespaces"),
        ({"memory": 10**9}, STUDENT, "--memory: needs namespaces"),
        ({"disk": 10**9}, STUDENT, "--disk: needs namespaces"),
        ({"uplink": 10**9}, STUDENT, "--uplink: needs namespaces"),
        ({"shared_home": True}, STUDENT, "--shared-home: needs namespaces"),
        ({"cpus": 0.0}, ROOT, "--cpus: bad value 0.0"),
        ({"cpus": float("nan")}, ROOT, "--cpus"),
        ({"cpus": 0.001}, ROOT, "--cpus"),
        ({"memory": 2**20}, ROOT, "--memory"),
        ({"disk": 1}, ROOT, "--disk"),
        ({"uplink": 1}, ROOT, "--uplink"),
        ({"user": "bob"}, ROOT, "choose student or root"),
        ({"user": "bob"}, STUDENT, "logs in as yourself"),
        ({"subnet": "10.83.7.1/24"}, ROOT, "host bits set"),
        ({"subnet": "lab"}, ROOT, "--subnet"),
        ({"subnet": "8.8.8.0/24"}, ROOT, "private network"),
        ({"subnet": "127.83.7.0/24"}, ROOT, "private network"),
        ({"subnet": "10.83.7.0/24"}, STUDENT, "127.0.0.0/8"),
        ({"subnet": "10.83.7.0/30"}, ROOT, "does not suit 4 hosts"),
        ({"subnet": "10.0.0.0/8"}, ROOT, "does not suit"),
        ({"max_startups": "10;20"}, ROOT, "--max-startups"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_done(
    changes: dict[str, object], uid: int, said: str
) -> None:
    with pytest.raises(InputError) as refusal:
        LabOptions(**changes).checked(uid, "ada")  # type: ignore[arg-type]
    assert said in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_options_survive_json() -> None:
    options = LabOptions(count=3, off=("lab01",), refuse_key=("lab02", "lab03"), cpus=0.5).checked(ROOT, "root")
    assert LabOptions.from_json(json.loads(json.dumps(options.as_json()))) == options


@pytest.mark.parametrize(
    ("count", "first", "last"), [(1, "lab01", "lab01"), (99, "lab01", "lab99"), (100, "lab001", "lab100")]
)
def test_host_names_have_one_width(count: int, first: str, last: str) -> None:
    names = host_names(count)
    assert (names[0], names[-1], len(set(names))) == (first, last, count)


def test_hosts_take_the_first_addresses_and_the_controller_the_last() -> None:
    lab = make_lab()
    assert [host.address for host in lab.hosts] == ["10.83.7.1", "10.83.7.2", "10.83.7.3"]
    assert lab.hosts[0].full_name == "lab01.demo.test"
    assert lab.controller_address == "10.83.7.254"


def test_a_wide_subnet_takes_hosts_past_a_byte() -> None:
    hosts = make_hosts(LabOptions(count=300), "10.83.16.0/20")
    assert (hosts[255].address, hosts[299].address) == ("10.83.17.0", "10.83.17.44")


def test_an_entry_is_a_line_that_the_host_list_reads_back() -> None:
    lab = make_lab()
    line = format_host(host_entry(lab, lab.hosts[0]))
    assert line == "lab01 address=10.83.7.1 ssh_config=/run/roomful-labs/demo/ssh_config netns=rf-demo"
    assert parse_line(line, "lab.txt:1") == host_entry(lab, lab.hosts[0])


def test_a_rootless_entry_names_no_namespace() -> None:
    assert "netns" not in host_entry(make_lab(rootless=True), make_lab().hosts[0]).attributes


@pytest.mark.parametrize("name", ["lab02", "lab02.demo.test", "10.83.7.2"])
def test_a_host_is_found_by_each_of_its_names(name: str) -> None:
    assert make_lab().host(name).name == "lab02"


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(InputError, match="the hosts are lab01 to lab03"):
        make_lab().host("lab04")


@pytest.mark.parametrize("rootless", [True, False])
@pytest.mark.parametrize("count", [1, 250, 251, 500])
def test_every_candidate_subnet_holds_the_lab_and_no_two_overlap(count: int, rootless: bool) -> None:
    networks = [ipaddress.IPv4Network(subnet) for subnet in candidate_subnets(count, rootless)]
    assert len(networks) > 10
    assert all(network.num_addresses >= count + 3 for network in networks)
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(networks))


def test_a_namespace_name_says_whose_it_is() -> None:
    assert netns_name("demo") == "rf-demo"
