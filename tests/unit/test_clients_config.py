"""Live settings as words and as a table."""

from __future__ import annotations

import pytest

from roomful.clients_config import live_settings, parse_changes, shown
from roomful.errors import InputError


def test_changes_carry_units() -> None:
    words = ["slots=4", "memory_accept=2GiB", "kill_grace_seconds=1m", "nice=", "while_idle=on"]
    assert parse_changes([*words, "heartbeat_seconds=1.5"]) == {
        "slots": "4", "memory_accept": str(2 * 2**30), "kill_grace_seconds": "60", "nice": None, "while_idle": "1",
        "heartbeat_seconds": "1.5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("slots", "bad word 'slots'; write NAME=VALUE"),
        ("slotz=4", "unknown setting 'slotz'"),
        ("slotz=", "unknown setting 'slotz'"),
        ("slots=many", "slots: 'many' is not a number"),
        ("slots=1.5", "slots: '1.5' is not a whole number"),
        ("slots=-1", "slots: '-1' is not within"),
        ("memory_accept=2", "size '2' has no unit; write 2GiB or 2MB"),
        ("kill_grace_seconds=soon", "bad duration 'soon'"),
        ("nice=20", "nice: '20' is not within 0 and 19"),
    ],
)
def test_bad_changes_are_refused(word: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_changes([word])


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match="'slots' is there twice"):
        parse_changes(["slots=1", "slots=2"])


def test_the_table_has_every_setting_and_those_of_single_hosts() -> None:
    settings = {
        item.name: item for item in live_settings({"slots": "4", "slots@lab01": "1", "while_idle@user@h:22": "1"})
    }
    assert settings["slots"].values == {"": "4", "lab01": "1"}
    assert settings["while_idle"].values == {"user@h:22": "1"}
    assert settings["nice"].values == {}
    assert settings["nice"].default == 10
    assert shown(settings["while_idle"], "1") == "on"
    assert shown(settings["memory_accept"], str(3 * 2**29)) == "1.5 GiB"
    assert shown(settings["memory_accept"], 0) == "0"
    assert shown(settings["heartbeat_seconds"], 2.0) == "2 s"
