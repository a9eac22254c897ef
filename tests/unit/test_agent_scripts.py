"""The Lua scripts say what they take, and agents may call what theirs need and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.agent import scripts
from roomful.agent.acl import acl_rules
from roomful.agent.tuning import SETTINGS, Tuning, check_setting

FOLDER = Path(scripts.__file__).parent / "lua"
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != "common")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_opens_by_documenting_its_keys_arguments_and_reply(name: str) -> None:
    opening = (FOLDER / f"{name}.lua").read_text().split("\n\n")[0]
    comment = [line for line in opening.splitlines() if line.startswith("--")]
    text = "\n".join(comment)
    assert text.startswith("-- ")
    assert "-- KEYS[1]" in text
    assert ("-- ARGV" in text) or "ARGV" not in (FOLDER / f"{name}.lua").read_text()
    assert "-- Returns" in text


@pytest.mark.parametrize("name", NAMES)
def test_no_script_reads_a_clients_clock_or_a_random_number(name: str) -> None:
    text = scripts.source(name)
    assert "os.time" not in text
    assert "math.random" not in text


def test_agents_get_no_command_that_reaches_beyond_the_queue() -> None:
    rules = acl_rules("a")
    assert rules[:4] == ["resetkeys", "resetchannels", "-@all", "~{roomful:a}:*"]
    given = {rule[1:] for rule in rules[4:]}
    dangerous = {"eval", "keys", "scan", "config", "flushall", "flushdb", "acl", "client", "debug", "get", "rename"}
    assert not given & dangerous
    assert {"evalsha", "script|load", "xread", "hset", "time"} <= given


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [("max_load", "2.50", "2.5"), ("while_idle", "Yes", "1"), ("slots", 3, "3"), ("memory_evict", 5e9, "5000000000")],
)
def test_settings_are_kept_as_plain_numbers(name: str, value: object, kept: str) -> None:
    assert check_setting(name, value) == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("volume", 1), ("slots", 1.5), ("slots", -1), ("nice", 20), ("heartbeat_seconds", 0)),
        *(("max_load", "much"), ("max_load", "nan"), ("max_load", "inf")),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        check_setting(name, value)


def test_a_hosts_own_setting_outranks_the_general_one() -> None:
    values = {"slots": "4", "slots@b": "2", "max_load": "broken"}
    assert [Tuning(host, values)["slots"] for host in "ab"] == [4, 2]
    assert Tuning("a", values)["max_load"] == SETTINGS["max_load"][1]
