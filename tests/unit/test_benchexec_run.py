"""What a benchmark run refuses before anything is done, and how it is kept apart from the project's cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.benchexec import make_plan, read_definition
from roomful.benchexec.campaign import LOCK, Campaign
from roomful.benchexec.request import check_options, check_script
from roomful.benchexec.workers import Worker, refuse_mixed
from roomful.errors import InputError, RoomfulError
from roomful.hosts import Host
from roomful.settings import Settings
from roomful.state import ProjectState


def test_hosts_with_different_cpus_are_refused_by_name() -> None:
    old, new = Worker(Host("a"), "looked", cpu_model="Old"), Worker(Host("b"), "locked", cpu_model="New")
    with pytest.raises(InputError, match=r"times do not compare: a, c: Old; b: New; .*--mixed-hardware"):
        refuse_mixed([old, new, Worker(Host("c"), "looked", cpu_model="Old")])
    # One that gets no job in any case, and one that nobody has seen, do not count.
    refuse_mixed([old, Worker(Host("b"), "rejected", cpu_model="New"), Worker(Host("c"), "away")])


@pytest.mark.parametrize(
    "word", ["-o", "-oout", "--outputpath=x", "--name=x", "-nx", "-t", "--tasks=a", "-rfast", "--task=a", "--rund"]
)
def test_options_that_the_run_gives_are_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"--options: .* is for the run to say"):
        check_options(["--no-container", word])


def test_other_options_are_benchexecs() -> None:
    check_options(["--no-container", "--timelimit", "900", "--read-only-dir", "/", "-N", "2", "--numOfThreads=1"])


def test_a_start_script_gets_one_task_set(tmp_path: Path) -> None:
    path = tmp_path / "def.xml"
    path.write_text(
        '<benchmark tool="dummy"><rundefinition/><tasks name="a"><withoutfile>x</withoutfile></tasks></benchmark>'
    )
    definition = read_definition(path)
    check_script(make_plan(definition), Path("s"))
    check_script(make_plan(definition, "both"), None)
    with pytest.raises(InputError, match="--start-script does not go with --split=both"):
        check_script(make_plan(definition, "both"), Path("s"))


def test_nothing_is_shared_with_the_projects_cluster_but_the_way_to_the_hosts(tmp_path: Path) -> None:
    settings = Settings(
        root=tmp_path,
        cluster="mine",
        server_url="unix:///q",
        server_directory="/data",
        client_directory="/scratch",
        identity_file="keys/id",
        ssh_config="my_config",
    )
    own = Campaign("nightly", settings).settings
    names = {ProjectState(one).cluster_name for one in (settings, own, Campaign("other", settings).settings)}
    assert len(names) == 3
    for name in ("workdir", "server_directory", "client_directory", "server_url", "root"):
        assert getattr(own, name) != getattr(settings, name), name
    assert (own.server_url, own.host_lock) == ("", LOCK)
    for name in ("ssh_config", "known_hosts", "identity_file"):
        assert own.path(getattr(own, name)) == settings.path(getattr(settings, name))
    assert Campaign("n", settings.replace(host_lock="/run/lock/ours")).settings.host_lock == "/run/lock/ours"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "x" * 42])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"bad name of a run .*; give one with --name"):
        Campaign(name, Settings(root=tmp_path))


def test_a_run_is_begun_once_resumed_as_the_same_and_by_one_process(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    with pytest.raises(InputError, match="there is no run 'n' to resume"):
        Campaign("n", settings).begin({"jobs": ["a"]}, resume=True)
    first = Campaign("n", settings)
    first.begin({"jobs": ["a"]}, resume=False)
    with pytest.raises(InputError, match="there is a run 'n' already; go on with it: add --resume"):
        Campaign("n", settings).begin({"jobs": ["a"]}, resume=False)
    with pytest.raises(InputError, match="changed since it began: jobs, options; results of different"):
        Campaign("n", settings).begin({"jobs": ["b"], "options": []}, resume=True)
    with pytest.raises(RoomfulError, match="another process works on the run 'n'"):
        Campaign("n", settings).begin({"jobs": ["a"]}, resume=True)
