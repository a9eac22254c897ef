"""Servers and lists of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomful.errors import InputError, RoomfulError
from roomful.experiments import Server, ServerList
from roomful.experiments.servers import loading_settings
from roomful.hosts import Host
from roomful.settings import Settings


@pytest.fixture
def servers() -> ServerList:
    return ServerList(
        Server("a", "10.0.0.1", fast=True),
        [Server("b", "10.0.0.2", fast=False), ServerList(Server("c", "10.0.0.1", fast=True))],
        working_directory="/tmp",
    )


def ids(servers: ServerList) -> str:
    return "".join(server.id for server in servers)


def test_attributes_can_be_read() -> None:
    server = Server("a", "node7", 2200, numa_nodes=2)
    assert (server.id, server.host, server.ip, server.port, server.numa_nodes) == ("a", "node7", "node7", 2200, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Server("a", "x", _hidden=1), "bad attribute '_hidden'"),
        (lambda: Server("a", "x", run_cmd=1), "bad attribute 'run_cmd'.*has something of that name"),
        (lambda: Server("a", "x", ip=1), "bad attribute 'ip'"),
        (lambda: Server("", "x"), "bad server id ''"),
        (lambda: Server(7, "x"), "bad server id 7"),
        (lambda: Server("a", "-x"), "server a: bad host name '-x'"),
        (lambda: Server("a", "x", 0), "bad port 0"),
        (lambda: Server("a", "x", "ssh"), "bad port 'ssh'"),
        (lambda: ServerList(Server("a", "x"), Server("a", "y")), "server id 'a' twice"),
        (lambda: ServerList("a"), "not a server: 'a'"),
        (lambda: ServerList(None), "not a server: None"),
    ],
)
def test_bad_servers_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(1, None), "bc"),
        (slice(None, None, -1), "cba"),
        (slice(None, None, 2), "ac"),
        (lambda server: server.fast, "ac"),
        ((0, "c"), "ac"),
        ((slice(1, 3), "a"), "bca"),
        ((-1, lambda server: not server.fast), "cb"),
        ((0,), "a"),
    ],
    ids=["slice", "reversed", "strided", "predicate", "tuple", "slice in tuple", "predicate in tuple", "one"],
)
def test_selection_of_several(servers: ServerList, key: Any, expected: str) -> None:
    chosen = servers[key]
    assert isinstance(chosen, ServerList)
    assert ids(chosen) == expected
    assert chosen.working_directory == "/tmp"


def test_selection_of_one(servers: ServerList) -> None:
    assert servers[0] is servers["a"]
    assert servers[-1].id == "c"
    assert len(servers) == 3
    assert ids(servers.unique_by_ip) == "ab"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("d", "no server 'd'; there are: a, b, c"),
        ("aa", "no server 'aa'; did you mean 'a'"),
        (9, "no server number 9: the list has 3"),
        (1.5, "cannot select servers by 1.5"),
        ((0, 0), "server id 'a' twice"),
    ],
)
def test_unknown_servers_are_refused(servers: ServerList, key: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _ = servers[key]


def test_a_server_outside_its_experiment_says_so(servers: ServerList) -> None:
    with pytest.raises(RoomfulError, match="server a: not connected"):
        servers[0].run_cmd("true")


@pytest.mark.parametrize("name", ["id", "host", "port", "ip"])
def test_attributes_of_a_host_list_that_a_server_has_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "host_lists").mkdir()
    (tmp_path / "host_lists" / "room.txt").write_text(f"one {name}=1\n")
    token = loading_settings.set(Settings(root=tmp_path))
    try:
        with pytest.raises(InputError, match=f"server one: bad attribute '{name}': a server has something of that"):
            ServerList.from_hosts("room")
    finally:
        loading_settings.reset(token)


def test_servers_from_a_host_list_bring_their_attributes(tmp_path: Path) -> None:
    (tmp_path / "host_lists").mkdir()
    (tmp_path / "host_lists" / "room.txt").write_text("one 2.0 1.5 rack=left\nbob@two:2200 gpu-count=3\n")
    token = loading_settings.set(Settings(root=tmp_path))
    try:
        servers = ServerList.from_hosts("room", working_directory="/tmp")
    finally:
        loading_settings.reset(token)
    assert [server.id for server in servers] == ["one", "two"]
    assert (servers["one"].rack, servers["one"].load_weight, servers["two"].gpu_count) == ("left", 2.0, "3")
    assert servers["two"].entry(Settings(root=tmp_path)).label == "bob@two:2200"
    assert servers.working_directory == "/tmp"


def test_a_server_that_stands_in_a_host_list_is_reached_as_that_says(tmp_path: Path) -> None:
    (tmp_path / "host_lists").mkdir()
    (tmp_path / "host_lists" / "room.txt").write_text("one address=10.1.1.1\nbad line = is skipped = here\n")
    (tmp_path / "host_lists" / "good.txt").write_text("one address=10.1.1.1 netns=lab\n")
    settings = Settings(root=tmp_path)
    assert Server("x", "bob@one").entry(settings).netns == "lab"
    assert Server("x", "bob@one").entry(settings).user == "bob"
    assert Server("x", "two").entry(settings) == Host("two")
    assert Server("x", "two", 2222).entry(settings).port == 2222
    assert Server("x", "two:2222").entry(settings).port == 2222
