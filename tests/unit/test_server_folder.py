"""The server's folder: names, lengths, and what is removed of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roomful.agent.private import Refusal
from roomful.agent.server import clients, handle
from roomful.agent.server_folder import (
    data_without_manifest,
    directory_of,
    forget,
    keep_zipapp,
    last_lines,
    size_of,
    socket_path_in,
)
from roomful.client_links import KEY_LENGTH, LONGEST_SOCKET, run_directory
from roomful.hosts import Host
from roomful.settings import Settings


@pytest.mark.parametrize("cluster", ["", "../x", "a/b", "-x", "a b", "x" * 42, "a\n"])
def test_a_cluster_name_that_is_no_file_name_is_refused(cluster: str) -> None:
    with pytest.raises(Refusal):
        directory_of({"cluster": cluster})
    assert "refused" in handle({"verb": "status", "cluster": cluster})


def test_the_usual_folder_is_kept_over_a_reboot() -> None:
    assert directory_of({"cluster": "c"}) == Path(f"/var/tmp/roomful-{os.getuid()}/c")
    assert directory_of({"cluster": "c", "directory": "/x"}) == Path("/x")


def test_the_socket_is_in_the_folder_while_its_path_is_short() -> None:
    assert socket_path_in(Path("/var/tmp/roomful-0/c"), "c") == "/var/tmp/roomful-0/c/valkey.sock"


@pytest.mark.parametrize("settings", [Settings(cluster="c" * 41), Settings(cluster="c")])
@pytest.mark.parametrize("name", ["a", "node01.department.university.example", "n" * 60])
def test_a_clients_sockets_stay_within_the_kernels_limit(settings: Settings, name: str) -> None:
    """Whatever the cluster, the account's number and the host are called."""
    folder = run_directory(Host(name, user="somebody", port=2222), settings).replace("{uid}", str(2**32 - 2))
    assert len(folder + LONGEST_SOCKET) <= 107


def test_hosts_never_share_a_folder() -> None:
    settings = Settings(cluster="c")
    long = "n" * (KEY_LENGTH + 5)
    hosts = [Host("a"), Host("a", port=22), Host("a", user="b"), Host(long), Host(long + "x"), Host(long, user="b")]
    assert len({run_directory(host, settings) for host in hosts}) == len(hosts)


def test_a_folder_of_the_users_choice_is_used() -> None:
    assert run_directory(Host("a"), Settings(client_directory="/scratch/me/")) == "/scratch/me/a"


def test_forget_removes_ours_only(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    (folder / "data" / "appendonlydir").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "valkey-check-aof").symlink_to("/gone")
    for name in ("server.json", "lock", "roomful-12.pyz", ".server.json.abc", "thesis.tex"):
        (folder / name).write_text("")
    forget(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    (folder / "thesis.tex").unlink()
    forget(folder)
    assert not folder.exists()


def test_a_link_to_data_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    forget(folder)
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_data_without_their_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "appendonlydir"
    assert data_without_manifest(tmp_path) == ""
    folder.mkdir(parents=True)
    assert data_without_manifest(tmp_path) == ""
    (folder / "appendonly.aof.1.incr.aof").write_text("")
    assert data_without_manifest(tmp_path).endswith("appendonly.aof.manifest")
    (folder / "appendonly.aof.manifest").write_text("")
    assert data_without_manifest(tmp_path) == ""


def test_the_program_is_kept_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "roomful-old.pyz").write_text("old")
    source = tmp_path / "roomful-new.pyz"
    source.write_text("new")
    kept = keep_zipapp(tmp_path / "server", source)
    assert kept.read_text() == "new"
    assert [path.name for path in (tmp_path / "server").iterdir()] == ["roomful-new.pyz"]
    assert keep_zipapp(tmp_path / "server", kept) == kept


def test_sizes_and_last_lines(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("one\ntwo\n\n")
    assert size_of(tmp_path) == 9
    assert last_lines(tmp_path / "x") == "two"
    assert last_lines(tmp_path / "none") == ""


def test_the_record_of_clients(tmp_path: Path) -> None:
    record = {"ssh": ["ssh"], "name": "a", "directory": "/d", "generation": "1", "host_key": "alias ssh-rsa AAAA"}
    request = {"cluster": "c", "directory": str(tmp_path)}
    assert clients({**request, "add": {"a": record, "b": record}}) == {"clients": ["a", "b"]}
    assert (tmp_path / "known_hosts").read_text() == "alias ssh-rsa AAAA\nalias ssh-rsa AAAA\n"
    assert clients({**request, "remove": ["a", "never"]}) == {"clients": ["b"]}
    with pytest.raises(Refusal):
        clients({**request, "add": {"c": {**record, "name": "-oProxyCommand=x"}}})
    assert clients(request) == {"clients": ["b"]}


def test_nothing_is_made_for_a_removal(tmp_path: Path) -> None:
    request = {"cluster": "c", "directory": str(tmp_path / "none"), "remove": ["a"]}
    assert clients(request) == {"clients": []}
    assert not (tmp_path / "none").exists()
