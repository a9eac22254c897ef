"""The labs' folder: locks, records, and the choice of networks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from roomful.errors import RoomfulError
from roomful.lab import store
from roomful.lab.model import LabOptions
from roomful.lab.store import Record


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labs' folder of the test's own."""
    base = tmp_path / "labs"
    monkeypatch.setattr(store, "bases", lambda: [base])
    return base


def test_a_lock_is_held_by_one_and_leaves_nothing(base: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with store.locked(base, "demo"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (160, 1)
    assert not base.exists()


@pytest.mark.parametrize("trap", ["symlink", "open to others"])
def test_a_folder_that_somebody_else_could_have_made_is_refused(base: Path, tmp_path: Path, trap: str) -> None:
    if trap == "symlink":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.mkdir()
        base.chmod(0o777)
    with pytest.raises(RoomfulError, match="not safe to use"), store.locked(base, "demo"):
        pass
    assert not (tmp_path / "elsewhere" / ".lock-demo").exists()


def test_nothing_is_read_from_such_a_folder(base: Path) -> None:
    write(base, "demo", "10.83.1.0/24")
    assert [path.name for path in store.directories()] == ["demo"]
    base.chmod(0o755)
    assert list(store.directories()) == []


def write(base: Path, name: str, subnet: str, **options: object) -> Record:
    base.mkdir(mode=0o700, exist_ok=True)
    record = Record("up", LabOptions(name=name, rootless=False, **options), subnet, 22)  # type: ignore[arg-type]
    store.write_record(base / name, record)
    return record


def test_a_record_is_read_back(base: Path) -> None:
    record = write(base, "demo", "10.83.1.0/24", off=("lab02",), cpus=0.5)
    assert store.read_record(base / "demo") == record
    assert (base / "demo").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "stage": "up"}'])
def test_a_broken_record_is_none(base: Path, text: str) -> None:
    write(base, "demo", "10.83.1.0/24")
    (base / "demo" / store.RECORD).write_text(text)
    assert store.read_record(base / "demo") is None


def test_each_lab_gets_a_network_of_its_own(base: Path) -> None:
    write(base, "one", "10.83.1.0/24")
    write(base, "two", "10.83.2.0/24")
    assert store.free_subnet(LabOptions(rootless=False)) == "10.83.3.0/24"


def test_a_large_lab_avoids_the_small_ones(base: Path) -> None:
    write(base, "one", "10.83.1.0/24")
    assert store.free_subnet(LabOptions(count=300, rootless=False)) == "10.83.16.0/20"


def test_a_network_that_was_asked_for_must_be_free(base: Path) -> None:
    write(base, "one", "10.83.0.0/20")
    with pytest.raises(RoomfulError, match="taken by the lab 'one'"):
        store.free_subnet(LabOptions(rootless=False, subnet="10.83.1.0/24"))


def test_faults_are_kept_with_their_order(base: Path) -> None:
    write(base, "demo", "10.83.1.0/24")
    folder = base / "demo" / "hosts" / "lab01"
    folder.mkdir(parents=True)
    assert store.read_faults(folder) == ()
    store.write_faults(folder, ("cut", "freeze"))
    record = store.read_record(base / "demo")
    assert record is not None
    assert record.lab(base / "demo").host("lab01").faults == ("cut", "freeze")
