"""How many clients come to share one login on their gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.dialer import Address
from roomful.gateway import master_argv, shared_ways, through_master, way_of

WAY = ("nsenter", "--net=/run/netns/rf-lab", "--", "ssh", "-F", "config", "-p", "22", "--", "gate")
PROXY = (*WAY[:-2], "-W", "[10.0.0.7]:22", *WAY[-2:])
SOCKET = Path("/tmp/roomful-x/0")


@pytest.mark.parametrize(
    ("proxy", "way"),
    [
        pytest.param(PROXY, WAY, id="through a gateway"),
        pytest.param((), None, id="direct"),
        pytest.param(("sh", "-c", "exec nc host 22"), None, id="a ProxyCommand of the user's"),
    ],
)
def test_the_way_to_the_gateway_is_the_same_for_all_behind_it(
    proxy: tuple[str, ...], way: tuple[str, ...] | None
) -> None:
    assert way_of(proxy) == way


def test_our_words_come_before_those_of_the_configuration() -> None:
    assert through_master(PROXY, SOCKET)[4:8] == ("-S", str(SOCKET), "-o", "ControlMaster=no")
    assert through_master(PROXY, SOCKET)[8:] == PROXY[4:]
    argv = master_argv(WAY, SOCKET)
    assert argv[:4] == list(WAY[:4])
    assert argv[4:8] == ["-S", str(SOCKET), "-o", "ControlMaster=yes"]
    assert argv[-2:] == ["--", "gate"]


def test_a_few_hosts_and_direct_ones_are_left_as_they_are() -> None:
    addresses = [Address("a", 22, PROXY)] * 4 + [Address("b", 22)] * 100
    with shared_ways(addresses, 0.0) as ways:
        assert ways is addresses


def test_without_a_master_each_goes_by_itself(tmp_path: Path) -> None:
    """The gateway's ssh ends at once: the hosts' own clients will say why."""
    proxy = (str(tmp_path / "none" / "ssh"), "-W", "a:22", "--", "gate")
    fails = ("sh", "-c", "exit 1", "ssh", *proxy[1:])
    addresses = [Address("a", 22, fails)] * 9
    with shared_ways(addresses, 5.0) as ways:
        assert list(ways) == addresses
