"""The commands that build a lab's network, as text."""

from __future__ import annotations

import pytest

from roomful.lab.network import controller_links, host_link, host_side, mac_address, parse_rate, uplink_limits
from tests.unit.test_lab_model import make_lab


@pytest.mark.parametrize(
    ("text", "bits"),
    [("200mbit", 200_000_000), ("1gbit", 10**9), ("1.5Gbit", 1_500_000_000), ("500kbit", 500_000)],
)
def test_rates(text: str, bits: int) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["", "200", "200mb", "-1mbit", "1e9kbit", "fast", "200mbit; reboot"])
def test_bad_rates_say_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a unit: 200mbit"):
        parse_rate(text)


def test_a_host_keeps_its_mac_address_and_no_two_share_one() -> None:
    assert mac_address("10.83.7.1") == "02:72:0a:53:07:01"
    # A locally administered unicast address: bit 1 of the first byte set, bit 0 clear (IEEE 802).
    assert int(mac_address("10.83.7.1")[:2], 16) & 3 == 2
    assert len({mac_address(host.address) for host in make_lab(200).hosts}) == 200


def test_the_link_is_put_into_the_init_process_network() -> None:
    lab = make_lab()
    create, join, activate = host_link(lab.hosts[1], 4711)
    assert create == "link add lab02 type veth peer name eth0 address 02:72:0a:53:07:02 netns 4711"
    assert join.startswith("link set lab02 master br0")
    assert activate == "link set lab02 up"


def test_interface_names_fit_the_kernel() -> None:
    names = [line.split()[2] for host in make_lab(200).hosts for line in host_link(host, 1)]
    assert max(len(name) for name in names) <= 15


def test_nobody_gets_a_route_out() -> None:
    lab = make_lab()
    commands = [*controller_links(lab), *host_side(lab, lab.hosts[0]).splitlines()]
    assert [line for line in commands if "addr add" in line] == [
        "addr add 10.83.7.254/24 broadcast + dev eth0",
        "addr add 10.83.7.1/24 broadcast + dev eth0",
    ]
    assert not [line for line in commands if "route" in line]


def test_the_uplink_is_limited_both_ways_with_room_for_a_packet() -> None:
    out, back = uplink_limits(200_000_000)
    assert out == "qdisc add dev eth0 root tbf rate 200000000bit burst 250000 latency 50ms"
    assert back == out.replace("eth0", "uplink")
    assert "burst 32000 " in uplink_limits(100_000)[0]
