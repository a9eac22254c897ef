"""Settings: every default is usable, every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roomful.errors import SettingsError
from roomful.settings import Settings, defaults


def test_the_defaults_are_valid_settings() -> None:
    assert Settings.from_mapping(defaults(), root=Path("/x")) == Settings(root=Path("/x"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("connect_timeout_seconds", "3", 3.0),
        ("lease_seconds", 3, 3.0),
        ("handshakes", "8", 8),
        ("accept_new_host_keys", "true", True),
        ("accept_new_host_keys", "0", False),
        ("accept_new_host_keys", "No", False),
        ("workdir", "/scratch/me", "/scratch/me"),
    ],
)
def test_values_from_files_and_environment(key: str, value: Any, expected: Any) -> None:
    assert getattr(Settings.from_mapping({key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("conect_timeout_seconds", 3, "did you mean connect_timeout_seconds?"),
        ("zzz", 3, "unknown setting 'zzz'"),
        ("handshakes", "many", "roomful.handshakes: bad value 'many'; write a number"),
        ("handshakes", 0, "above 0"),
        ("lease_seconds", "nan", "above 0"),
        ("accept_new_host_keys", "perhaps", "write true or false"),
        ("workdir", "a\nb", "one line of text"),
        ("workdir", 3, "one line of text"),
    ],
)
def test_mistakes_are_named(key: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping({key: value})
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_paths_start_at_the_project(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    assert settings.path("host_lists") == tmp_path / "host_lists"
    assert settings.path("/etc/hosts") == Path("/etc/hosts")
    assert settings.path("~/x") == Path.home() / "x"
